# TransXNet-T on ImageNet-1K, the published recipe.
_base_ = ["./_base_/mmhybrid.py", "./_base_/transxnet_imagenet.py"]

model = dict(
    backbone=dict(arch="tiny", drop_path_rate=0.1),
    head=dict(in_channels=448),
)
