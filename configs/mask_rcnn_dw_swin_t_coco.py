# Mask R-CNN with Swin-T and depth-wise shortcuts on COCO from scratch, as published.
_base_ = ["./_base_/mmhybrid.py", "./_base_/mask_rcnn_coco_1x.py"]

model = dict(
    backbone=dict(
        _delete_=True, type="DWSwinTransformer", arch="tiny", drop_path_rate=0.2, init_cfg=None
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)

optim_wrapper = dict(
    # The weight decay is not published; 0.05 is that of Swin's own recipe, as are its exceptions.
    optimizer=dict(lr=5e-5, weight_decay=0.05),
    paramwise_cfg=dict(custom_keys=dict(relative_position_bias_table=dict(decay_mult=0.0))),
)
# 4 GPUs x 2 images = 8
auto_scale_lr = dict(base_batch_size=8)
