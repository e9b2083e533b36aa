# The all-MLP decoder with a reconstruction of XFormer on Cityscapes. The recipe is not known; this
# is SegFormer's.
# No weights of XFormer are published: give your own by model.backbone.init_cfg.
_base_ = ["./_base_/mmhybrid.py", "./_base_/segformer_cityscapes_160k.py"]

model = dict(
    backbone=dict(_delete_=True, type="XFormer", arch="small", norm_cfg=dict(type="SyncBN")),
    decode_head=dict(in_channels=[64, 96, 128, 160]),
    test_cfg=dict(_delete_=True, mode="whole"),
)
# The learned scales of cross feature attention do not decay.
no_decay = {"temperature": dict(decay_mult=0.0), "attention.scale": dict(decay_mult=0.0)}
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=no_decay))
