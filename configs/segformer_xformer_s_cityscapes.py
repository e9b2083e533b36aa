# The all-MLP decoder with a reconstruction of XFormer on Cityscapes. The recipe is not known; this
# is SegFormer's.
_base_ = [
    "_base_/mmhybrid.py",
    "_base_/segformer_cityscapes_160k.py",
    "_base_/backbones/xformer_s.py",
]
model = __import__("mmhybrid").replace_backbone(_base_.model, _base_.backbone)
model["test_cfg"] = dict(_delete_=True, mode="whole")
# The learned scales of cross feature attention do not decay.
no_decay = {"temperature": dict(decay_mult=0.0), "attention.scale": dict(decay_mult=0.0)}
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=no_decay))
