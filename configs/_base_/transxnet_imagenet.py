# What the three sizes of TransXNet share on ImageNet-1K. The authors train in float16 (--amp) and
# draw the interpolation of a crop at random between bilinear and bicubic; here it is bicubic.
_base_ = ["./imagenet_300e.py"]

optim_wrapper = dict(
    optimizer=dict(lr=2e-3),
    # No decay for biases, norms and all else that is flat; LayerScale, the tables of positions and
    # the kernel banks decay.
    paramwise_cfg=dict(
        _delete_=True, norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0
    ),
)
# 5 epochs of warm-up from 1e-6, a cosine down to 1e-5 at epoch 300, 10 more epochs at 1e-5
param_scheduler = [
    dict(type="LinearLR", start_factor=5e-4, end=5, by_epoch=True, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", T_max=295, eta_min=1e-5, begin=5, end=300, by_epoch=True),
]
train_cfg = dict(max_epochs=310)
# Weights are averaged with a decay of 0.9998.
custom_hooks = [dict(type="EMAHook", momentum=2e-4, priority="ABOVE_NORMAL")]
# Evaluated on the central 90 %: 224 / 0.9
val_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(
                type="ResizeEdge",
                scale=248,
                edge="short",
                backend="pillow",
                interpolation="bicubic",
            ),
            dict(type="CenterCrop", crop_size=224),
            dict(type="PackInputs"),
        ]
    )
)
test_dataloader = val_dataloader
