# CaiT-XXS12 with depth-wise shortcuts on ImageNet-1K, the published recipe.
# As published, without layer scale; position embedding and talking heads stay.
_base_ = ["_base_/mmhybrid.py", "_base_/imagenet_300e.py", "_base_/backbones/dw_cait_xxs12.py"]

model = dict(
    backbone=dict(_base_.backbone, out_type="cls_token", layer_scale=False),
    neck=None,
    head=dict(in_channels=192, init_cfg=None),
)
# 8 GPUs x 128 images = 1024; lr 1e-3, 20 epochs of warm-up
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys=dict(relative_position_bias_table=dict(decay_mult=0.0))),
    clip_grad=dict(max_norm=5.0),
)
