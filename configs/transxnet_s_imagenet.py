# TransXNet-S on ImageNet-1K, the published recipe.
_base_ = ["./_base_/mmhybrid.py", "./_base_/transxnet_imagenet.py"]

model = dict(
    backbone=dict(arch="small", drop_path_rate=0.2),
    head=dict(in_channels=512),
)
# Weights are averaged with a decay of 0.99985.
custom_hooks = [dict(type="EMAHook", momentum=1.5e-4, priority="ABOVE_NORMAL")]
