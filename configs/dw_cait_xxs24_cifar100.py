# CaiT-XXS24 with depth-wise shortcuts on CIFAR-100, the published recipe.
_base_ = "./dw_cait_xxs12_cifar100.py"

model = dict(backbone=dict(arch="xxs24"))
