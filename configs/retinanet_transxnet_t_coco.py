# RetinaNet with TransXNet-T on COCO, the published 1x recipe.
_base_ = [
    "./_base_/mmhybrid.py",
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",  # 12 epochs, steps at 8, 11; warm-up 500 iterations
    "mmdet::_base_/default_runtime.py",
]

weights = "https://github.com/LMMMEng/TransXNet/releases/download/v1.0/transx-t.pth.tar"

model = dict(
    backbone=dict(
        _delete_=True,
        type="TransXNet",
        arch="tiny",
        out_indices=(1, 2, 3),  # the neck uses no more, so no norm is built for the first stage
        drop_path_rate=0.1,
        norm_cfg=dict(type="SyncBN"),
        init_cfg=dict(type="Pretrained", checkpoint=weights),
    ),
    neck=dict(in_channels=[96, 224, 448], start_level=0),
)

# 8 GPUs x 2 pictures = 16; 118k pictures x 12 epochs = 88k iterations
train_dataloader = dict(batch_size=2, num_workers=4)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, weight_decay=1e-4),
)
default_hooks = dict(checkpoint=dict(save_best="auto"))
quick = dict(iterations=300, train_pictures=160)  # --quick: one stage learns in smaller steps
