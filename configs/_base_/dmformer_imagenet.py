# DMFormer on ImageNet-1K. Epochs, batch and highest learning rate are what readers of the paper
# report. The rest is mmpretrain's recipe of VAN, but for ImageNet's statistics of the images, and
# for warm-up and lowest learning rate, which are those of VAN's own code.
_base_ = ["./imagenet_300e.py"]

*before, erase, pack = _base_.train_pipeline
jitter = dict(type="ColorJitter", brightness=0.4, contrast=0.4, saturation=0.4)
train_pipeline = [*before, jitter, erase, pack]
# The central 90 %: 224 / 0.9
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="ResizeEdge", scale=248, edge="short", backend="pillow", interpolation="bicubic"),
    dict(type="CenterCrop", crop_size=224),
    dict(type="PackInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(
    # VAN's layer scales are flat, and do not decay; these are as large, but have four dimensions.
    paramwise_cfg=dict(custom_keys=dict(layer_scale=dict(decay_mult=0.0))),
    clip_grad=dict(max_norm=5.0),
)
# 8 GPUs x 128 images = 1024; lr 1e-3, 5 epochs of warm-up from 1e-6, a cosine down to 1e-6
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, end=5, by_epoch=True, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", T_max=295, eta_min=1e-6, begin=5, end=300, by_epoch=True),
]
