# CaiT-XXS24 with depth-wise shortcuts on CIFAR-10, the published recipe.
_base_ = "./dw_cait_xxs12_cifar10.py"

model = dict(backbone=dict(arch="xxs24"))
