# CIFAR-10 at 224 pixels from scratch, as the authors of the DW shortcut train: 300 epochs of batch
# 128, in float16 (--amp). The other small data sets change what differs.
_base_ = "mmpretrain::_base_/default_runtime.py"

model = dict(
    type="ImageClassifier",
    head=dict(
        type="LinearClsHead",
        num_classes=10,
        loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
    ),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]),
)
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=5e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    # No decay for biases, norms and all else that is flat.
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys=dict(relative_position_bias_table=dict(decay_mult=0.0)),
    ),
    clip_grad=dict(max_norm=5.0),
)
# 20 epochs of warm-up from a thousandth, then a cosine down to a hundredth
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, end=20, by_epoch=True, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        T_max=280,
        eta_min_ratio=0.01,
        begin=20,
        end=300,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best="auto"))
auto_scale_lr = dict(base_batch_size=128)

# The images of the pickles are RGB already.
data_preprocessor = dict(
    num_classes=10, mean=[125.307, 122.961, 113.8575], std=[62.985, 62.0925, 66.708], to_rgb=False
)
pad_value = [125, 123, 114]

train_pipeline = [
    dict(type="Resize", scale=(224, 224), interpolation="bilinear", backend="pillow"),
    dict(type="RandomResizedCrop", scale=224, backend="pillow", interpolation="bicubic"),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(
        type="RandAugment",
        policies="timm_increasing",
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=pad_value, interpolation="bicubic"),
    ),
    dict(
        type="RandomErasing",
        erase_prob=0.25,
        mode="rand",
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=pad_value,
        fill_std=[62.985, 62.0925, 66.708],
    ),
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="Resize", scale=(224, 224), interpolation="bilinear", backend="pillow"),
    dict(type="ResizeEdge", scale=256, edge="short", backend="pillow", interpolation="bicubic"),
    dict(type="CenterCrop", crop_size=224),
    dict(type="PackInputs"),
]

# 4 GPUs x 32 images = 128
train_dataloader = dict(
    batch_size=32,
    num_workers=4,
    dataset=dict(type="CIFAR10", data_root="data/cifar10", split="train", pipeline=train_pipeline),
    sampler=dict(type="DefaultSampler", shuffle=True),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    dataset=dict(type="CIFAR10", data_root="data/cifar10", split="test", pipeline=test_pipeline),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1, 5))
test_evaluator = val_evaluator
