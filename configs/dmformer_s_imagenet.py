# A reconstruction of DMFormer-S on ImageNet-1K. Epochs, batch and learning rate are what readers of
# the paper report; the rest is VAN's recipe.
_base_ = ["_base_/mmhybrid.py", "_base_/imagenet_300e.py", "_base_/backbones/dmformer_s.py"]

model = dict(backbone=dict(_base_.backbone, out_indices=(3,)), head=dict(in_channels=512))
# 8 GPUs x 128 images = 1024; lr 1e-3, 5 epochs of warm-up from 1e-6, a cosine down to 1e-6
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, end=5, by_epoch=True, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", T_max=295, eta_min=1e-6, begin=5, end=300, by_epoch=True),
]
