# Tiny-ImageNet at 224 pixels, with the augmentation of the DW shortcut's authors.
_base_ = "./small_data_300e.py"

model = dict(head=dict(num_classes=200))
# Statistics of ImageNet, as published; images are read as BGR.
data_preprocessor = dict(
    num_classes=200, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)
pad_value = [104, 116, 124]

train_pipeline = [
    dict(type="LoadImageFromFile"),
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
        fill_std=[57.375, 57.12, 58.395],
    ),
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(224, 224), interpolation="bilinear", backend="pillow"),
    dict(type="ResizeEdge", scale=256, edge="short", backend="pillow", interpolation="bicubic"),
    dict(type="CenterCrop", crop_size=224),
    dict(type="PackInputs"),
]

# 4 GPUs x 32 images = 128
train_dataloader = dict(
    batch_size=32,
    num_workers=4,
    dataset=dict(
        type="mmhybrid.TinyImageNet",
        data_root="data/tiny-imagenet-200",
        split="train",
        pipeline=train_pipeline,
    ),
    sampler=dict(type="DefaultSampler", shuffle=True),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    dataset=dict(
        type="mmhybrid.TinyImageNet",
        data_root="data/tiny-imagenet-200",
        split="val",
        pipeline=test_pipeline,
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1, 5))
test_evaluator = val_evaluator
