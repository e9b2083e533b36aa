# Semantic FPN with a reconstruction of DMFormer on a small data set of street scenes. To learn from
# nothing on a CPU, the backbone has the widths and depths of VAN-B0 and the rest is half as wide.
_base_ = [
    "_base_/mmhybrid.py",
    "mmseg::_base_/models/fpn_r50.py",
    "_base_/camvid.py",
    "_base_/backbones/dmformer_s.py",
]

norm_cfg = dict(type="BN")
arch = dict(embed_dims=(32, 64, 160, 256), depths=(3, 3, 5, 2))
options = dict(arch=arch, drop_path_rate=0.0, norm_cfg=norm_cfg, layer_scale_init=0.1)
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(_base_.backbone, _delete_=True, **options),
    neck=dict(in_channels=[32, 64, 160, 256], out_channels=128),
    decode_head=dict(
        in_channels=[128, 128, 128, 128],
        channels=64,
        num_classes=11,
        norm_cfg=norm_cfg,
        loss_decode=_base_.losses,
    ),
    # In windows as large as the crops: on larger maps, the dilated kernels of the deep stages would
    # use weights that crops of this size leave as they were.
    test_cfg=dict(mode="slide", crop_size=(128, 128), stride=(85, 85)),
)
