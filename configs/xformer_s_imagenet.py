# A reconstruction of XFormer on ImageNet-1K. The recipe is not known; this is MobileViT's: 300
# epochs of batch 1024 at 256 pixels, crops and flips alone. What it lacks: images of several sizes,
# and dropout before the classifier. Images are normalised by ImageNet's statistics.
_base_ = ["_base_/mmhybrid.py", "_base_/imagenet_300e.py", "_base_/backbones/xformer_s.py"]

model = dict(
    backbone=dict(_base_.backbone, out_indices=(3,), head_channels=640, drop_rate=0.1),
    head=dict(in_channels=640),
    train_cfg=None,
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomResizedCrop", scale=256, backend="pillow", interpolation="bilinear"),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="ResizeEdge", scale=288, edge="short", backend="pillow", interpolation="bilinear"),
    dict(type="CenterCrop", crop_size=256),
    dict(type="PackInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
no_decay = {"temperature": dict(decay_mult=0.0), "attention.scale": dict(decay_mult=0.0)}
optim_wrapper = dict(
    optimizer=dict(lr=2e-3, weight_decay=0.01),
    paramwise_cfg=dict(_delete_=True, custom_keys=no_decay),
)
# 3000 iterations of warm-up from 2e-4, a cosine down to 2e-4, epoch by epoch
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, end=3000, by_epoch=False),
    dict(type="CosineAnnealingLR", T_max=300, eta_min=2e-4, end=300, by_epoch=True),
]
custom_hooks = [dict(type="EMAHook", momentum=5e-4, priority="ABOVE_NORMAL")]
