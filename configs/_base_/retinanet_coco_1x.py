# RetinaNet on COCO: 12 epochs of batch 16, AdamW as for PVT.
_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",  # 12 epochs, steps at 8, 11; warm-up 500 iterations
    "mmdet::_base_/default_runtime.py",
]

# 8 GPUs x 2 images = 16; 118k images x 12 epochs = 88k iterations
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, weight_decay=1e-4))
