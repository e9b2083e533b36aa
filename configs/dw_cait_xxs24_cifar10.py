# CaiT-XXS24 with depth-wise shortcuts on CIFAR-10, the published recipe.
# As published, for small data without position embedding, layer scale and talking heads.
_base_ = ["./_base_/mmhybrid.py", "./_base_/small_data_cifar10.py"]

model = dict(
    backbone=dict(
        type="DWCaiT",
        arch="xxs24",
        out_type="cls_token",
        position_embedding=False,
        layer_scale=False,
        talking_heads=False,
    ),
    head=dict(in_channels=192),
)
