# Mask R-CNN with a reconstruction of DMFormer-S on COCO. The recipe is not known; this is VAN's.
# No weights of DMFormer are published: give your own by model.backbone.init_cfg.
_base_ = [
    "./_base_/mmhybrid.py",
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "mmdet::_base_/schedules/schedule_1x.py",  # 12 epochs, steps at 8, 11; warm-up 500 iterations
    "mmdet::_base_/default_runtime.py",
]

model = dict(
    backbone=dict(
        _delete_=True,
        type="DMFormer",
        arch="small",
        drop_path_rate=0.1,
        norm_cfg=dict(type="SyncBN"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
# 8 GPUs x 2 pictures = 16
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(custom_keys=dict(norm=dict(decay_mult=0.0))),
)
