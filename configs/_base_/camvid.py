# CamVid with the usual 11 classes, in ADE20K's layout (images/training, annotations/training, and
# the same for validation; label 0 is unlabelled): a data set small enough to learn on a CPU.
_base_ = ["mmseg::_base_/default_runtime.py", "mmseg::_base_/schedules/schedule_40k.py"]

classes = ["sky", "building", "pole", "road", "pavement", "tree"]
classes += ["sign", "fence", "car", "pedestrian", "bicyclist"]
palette = [[128, 128, 128], [128, 0, 0], [192, 192, 128], [128, 64, 128], [0, 0, 192]]
palette += [[128, 128, 0], [192, 128, 128], [64, 64, 128], [64, 0, 128], [64, 64, 0], [0, 128, 192]]

# Cross-entropy alone would forget the thin classes in so short a run.
losses = [
    dict(type="CrossEntropyLoss", loss_weight=1.0),
    dict(type="LovaszLoss", reduction="none", loss_weight=1.0),
]

# Half of the images' 480x360.
size, crop_size = (240, 180), (128, 128)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="RandomResize", scale=size, ratio_range=(0.9, 1.25), keep_ratio=True),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=size, keep_ratio=True),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="PackSegInputs"),
]
dataset = dict(
    type="BaseSegDataset",
    data_root="data/camvid",
    metainfo=dict(classes=classes, palette=palette),
    reduce_zero_label=True,
)
train_paths = dict(img_path="images/training", seg_map_path="annotations/training")
val_paths = dict(img_path="images/validation", seg_map_path="annotations/validation")
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(data_prefix=train_paths, pipeline=train_pipeline, **dataset),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(data_prefix=val_paths, pipeline=test_pipeline, **dataset),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator

steps, warm_up = 2000, 40
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=0.01),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, end=warm_up),
    dict(type="PolyLR", eta_min=0.0, power=0.9, begin=warm_up, end=steps, by_epoch=False),
]
train_cfg = dict(max_iters=steps, val_interval=steps // 4)
default_hooks = dict(
    checkpoint=dict(interval=steps // 4, max_keep_ckpts=1), logger=dict(interval=10)
)
