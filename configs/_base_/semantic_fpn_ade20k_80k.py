# Semantic FPN on ADE20K, as the authors of TransXNet train it: 80k iterations of batch 32.
_base_ = [
    "mmseg::_base_/models/fpn_r50.py",
    "mmseg::_base_/datasets/ade20k.py",
    "mmseg::_base_/default_runtime.py",
    "mmseg::_base_/schedules/schedule_80k.py",
]

crop_size = (512, 512)
data_preprocessor = dict(size=crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained=None,
    # The authors never call init_weights here, so neck and head start as PyTorch and ConvModule
    # make them.
    neck=dict(init_cfg=None),
    decode_head=dict(num_classes=150, init_cfg=None),
)

# Evaluation resizes, not pads, each side up to a multiple of 32.
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 512), keep_ratio=True),
    dict(type="ResizeToMultiple", size_divisor=32),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="PackSegInputs"),
]
# 8 GPUs x 4 images = 32
train_dataloader = dict(batch_size=4)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=2e-4, weight_decay=1e-4),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=1000),
    dict(type="CosineAnnealingLR", eta_min=2e-12, by_epoch=False, begin=0, end=80000, T_max=80000),
]
train_cfg = dict(val_interval=4000)
default_hooks = dict(checkpoint=dict(interval=4000, save_best="mIoU"))
auto_scale_lr = dict(enable=False, base_batch_size=32)
