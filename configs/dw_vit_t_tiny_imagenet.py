# ViT-Tiny with depth-wise shortcuts on Tiny-ImageNet, the published recipe.
_base_ = [
    "_base_/mmhybrid.py",
    "_base_/small_data_tiny_imagenet.py",
    "_base_/backbones/dw_vit_t.py",
]

model = dict(backbone=dict(_base_.backbone, out_type="cls_token"), head=dict(in_channels=192))
