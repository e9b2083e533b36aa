# ViT-Small with depth-wise shortcuts on CIFAR-10, the published recipe.
_base_ = "./dw_vit_t_cifar10.py"

model = dict(backbone=dict(arch="small"), head=dict(in_channels=384))
