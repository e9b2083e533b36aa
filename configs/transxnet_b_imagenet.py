# TransXNet-B on ImageNet-1K, the published recipe.
_base_ = ["_base_/mmhybrid.py", "_base_/transxnet_imagenet.py", "_base_/backbones/transxnet_b.py"]

model = dict(
    backbone=dict(_base_.backbone, out_indices=(3,), drop_path_rate=0.4, init_cfg=None),
    head=dict(in_channels=672),
)
# Weights are averaged with a decay of 0.99985.
custom_hooks = [dict(type="EMAHook", momentum=1.5e-4, priority="ABOVE_NORMAL")]
# Evaluated on the central 95 %: 224 / 0.95
val_dataloader = _base_.val_dataloader
val_dataloader.dataset.pipeline[1].scale = 235
test_dataloader = val_dataloader
