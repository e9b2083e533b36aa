# Mask R-CNN on COCO: 12 epochs of batch 16, AdamW as for Swin.
_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "mmdet::_base_/schedules/schedule_1x.py",  # 12 epochs, steps at 8, 11; warm-up 500 iterations
    "mmdet::_base_/default_runtime.py",
]

# 8 GPUs x 2 images = 16; 118k images x 12 epochs = 88k iterations
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, weight_decay=0.05),
    # `norm` in the name of a parameter frees it from decay: in TransXNet, norm1 and norm2 of a
    # block, mlp.norm and the output norms. All else decays, other norms and biases too.
    paramwise_cfg=dict(custom_keys=dict(norm=dict(decay_mult=0.0))),
)
quick = dict(batch_size=2, iterations=120)  # --quick: many small steps learn sooner
