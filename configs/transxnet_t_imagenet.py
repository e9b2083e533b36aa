# TransXNet-T on ImageNet-1K, the published recipe.
_base_ = ["_base_/mmhybrid.py", "_base_/transxnet_imagenet.py", "_base_/backbones/transxnet_t.py"]

model = dict(
    backbone=dict(_base_.backbone, out_indices=(3,), init_cfg=None),
    head=dict(in_channels=448),
)
