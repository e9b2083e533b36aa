# TransXNet-S on ImageNet-1K, the published recipe.
_base_ = ["_base_/mmhybrid.py", "_base_/transxnet_imagenet.py", "_base_/backbones/transxnet_s.py"]

model = dict(
    backbone=dict(_base_.backbone, out_indices=(3,), init_cfg=None),
    head=dict(in_channels=512),
)
# Weights are averaged with a decay of 0.99985.
custom_hooks = [dict(type="EMAHook", momentum=1.5e-4, priority="ABOVE_NORMAL")]
