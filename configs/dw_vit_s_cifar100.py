# ViT-Small with depth-wise shortcuts on CIFAR-100, the published recipe.
_base_ = "./dw_vit_t_cifar100.py"

model = dict(backbone=dict(arch="small"), head=dict(in_channels=384))
