# The all-MLP decoder with a reconstruction of XFormer on a small data set of street scenes.
_base_ = [
    "_base_/mmhybrid.py",
    "mmseg::_base_/models/segformer_mit-b0.py",
    "_base_/camvid.py",
    "_base_/backbones/xformer_s.py",
]

norm_cfg = dict(type="BN")
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(_base_.backbone, _delete_=True, norm_cfg=norm_cfg),
    decode_head=dict(
        in_channels=[64, 96, 128, 160], num_classes=11, norm_cfg=norm_cfg, loss_decode=_base_.losses
    ),
)
# The learned scales of cross feature attention do not decay.
no_decay = {"temperature": dict(decay_mult=0.0), "attention.scale": dict(decay_mult=0.0)}
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=no_decay))
