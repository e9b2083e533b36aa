# Mask R-CNN with TransXNet-T on COCO, the published 1x recipe.
_base_ = [
    "./_base_/mmhybrid.py",
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "mmdet::_base_/schedules/schedule_1x.py",  # 12 epochs, steps at 8, 11; warm-up 500 iterations
    "mmdet::_base_/default_runtime.py",
]

weights = "https://github.com/LMMMEng/TransXNet/releases/download/v1.0/transx-t.pth.tar"

model = dict(
    backbone=dict(
        _delete_=True,
        type="TransXNet",
        arch="tiny",
        drop_path_rate=0.1,
        norm_cfg=dict(type="SyncBN"),
        init_cfg=dict(type="Pretrained", checkpoint=weights),
    ),
    neck=dict(in_channels=[48, 96, 224, 448]),
)

# 8 GPUs x 2 pictures = 16; 118k pictures x 12 epochs = 88k iterations
train_dataloader = dict(batch_size=2, num_workers=4)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, weight_decay=0.05),
    # As published, `norm` in the name of a parameter frees it from decay: in TransXNet, norm1 and
    # norm2 of a block, mlp.norm and the output norms. All else decays, other norms and biases too.
    paramwise_cfg=dict(custom_keys=dict(norm=dict(decay_mult=0.0))),
)
default_hooks = dict(checkpoint=dict(save_best="auto"))
