# A reconstruction of DMFormer-L on ImageNet-1K.
_base_ = ["_base_/mmhybrid.py", "_base_/dmformer_imagenet.py", "_base_/backbones/dmformer_l.py"]

model = dict(backbone=dict(_base_.backbone, out_indices=(3,)), head=dict(in_channels=512))
