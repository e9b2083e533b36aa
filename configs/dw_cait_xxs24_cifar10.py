# CaiT-XXS24 with depth-wise shortcuts on CIFAR-10, the published recipe:
# for small data without position embedding, layer scale and talking heads.
_base_ = ["_base_/mmhybrid.py", "_base_/small_data_cifar10.py", "_base_/backbones/dw_cait_xxs24.py"]

options = dict(position_embedding=False, layer_scale=False, talking_heads=False)
model = dict(
    backbone=dict(_base_.backbone, out_type="cls_token", **options), head=dict(in_channels=192)
)
