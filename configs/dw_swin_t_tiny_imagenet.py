# Swin-T with depth-wise shortcuts on Tiny-ImageNet, the published recipe.
_base_ = [
    "_base_/mmhybrid.py",
    "_base_/small_data_tiny_imagenet.py",
    "_base_/backbones/dw_swin_t.py",
]

model = dict(
    backbone=dict(_base_.backbone, out_indices=(3,)),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(in_channels=768),
)
# Half the learning rate of the others.
optim_wrapper = dict(optimizer=dict(lr=2.5e-4))
