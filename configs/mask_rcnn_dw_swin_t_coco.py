# Mask R-CNN with Swin-T and depth-wise shortcuts on COCO from scratch, as published.
_base_ = ["_base_/mmhybrid.py", "_base_/mask_rcnn_coco_1x.py", "_base_/backbones/dw_swin_t.py"]
model = __import__("mmhybrid").replace_backbone(_base_.model, _base_.backbone)

optim_wrapper = dict(
    # The weight decay is not published; 0.05 is that of Swin's own recipe, as are its exceptions.
    optimizer=dict(lr=5e-5, weight_decay=0.05),
    paramwise_cfg=dict(custom_keys=dict(relative_position_bias_table=dict(decay_mult=0.0))),
)
# 4 GPUs x 2 images = 8
auto_scale_lr = dict(base_batch_size=8)
