# CaiT-XXS24 with depth-wise shortcuts on ImageNet-1K, the published recipe.
_base_ = "./dw_cait_xxs12_imagenet.py"

model = dict(backbone=dict(arch="xxs24"))
