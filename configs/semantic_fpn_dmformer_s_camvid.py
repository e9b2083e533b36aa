# Semantic FPN, half as wide as usual, with a reconstruction of DMFormer-S on a small data set of
# street scenes.
_base_ = ["./_base_/mmhybrid.py", "mmseg::_base_/models/fpn_r50.py", "./_base_/camvid.py"]

norm_cfg = dict(type="BN")
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(_delete_=True, type="DMFormer", arch="small", layer_scale_init=0.1),
    neck=dict(in_channels=[64, 128, 320, 512], out_channels=128),
    decode_head=dict(
        in_channels=[128, 128, 128, 128],
        channels=64,
        num_classes=11,
        norm_cfg=norm_cfg,
        loss_decode=_base_.losses,
    ),
)
