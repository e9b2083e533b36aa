# CaiT-XXS24 with depth-wise shortcuts on Tiny-ImageNet, the published recipe.
_base_ = "./dw_cait_xxs12_tiny_imagenet.py"

model = dict(backbone=dict(arch="xxs24"))
