# Cascade Mask R-CNN with Swin-T and depth-wise shortcuts on COCO from scratch, as published.
_base_ = [
    "_base_/mmhybrid.py",
    "mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "mmdet::_base_/schedules/schedule_1x.py",  # 12 epochs, steps at 8, 11; warm-up 500 iterations
    "mmdet::_base_/default_runtime.py",
    "_base_/backbones/dw_swin_t.py",
]
model = __import__("mmhybrid").replace_backbone(_base_.model, _base_.backbone)

# 4 GPUs x 2 images = 8
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(
    # The weight decay is not published; 0.05 is that of Swin's own recipe, as are its exceptions.
    optimizer=dict(_delete_=True, type="AdamW", lr=5e-5, weight_decay=0.05),
    paramwise_cfg=dict(
        custom_keys=dict(
            relative_position_bias_table=dict(decay_mult=0.0), norm=dict(decay_mult=0.0)
        )
    ),
)
auto_scale_lr = dict(base_batch_size=8)
