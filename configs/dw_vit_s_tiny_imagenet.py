# ViT-Small with depth-wise shortcuts on Tiny-ImageNet, the published recipe.
_base_ = "./dw_vit_t_tiny_imagenet.py"

model = dict(backbone=dict(arch="small"), head=dict(in_channels=384))
