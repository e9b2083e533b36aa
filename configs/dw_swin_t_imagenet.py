# Swin-T with depth-wise shortcuts on ImageNet-1K, the published recipe.
_base_ = ["_base_/mmhybrid.py", "_base_/imagenet_300e.py", "_base_/backbones/dw_swin_t.py"]

model = dict(
    backbone=dict(_base_.backbone, out_indices=(3,)), head=dict(in_channels=768, init_cfg=None)
)
# 8 GPUs x 128 images = 1024; lr 1e-3, 20 epochs of warm-up
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(relative_position_bias_table=dict(decay_mult=0.0))),
    clip_grad=dict(max_norm=5.0),
)
