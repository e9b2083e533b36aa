# UperNet with TransXNet-B on ADE20K. The paper has no UperNet; this is Swin's recipe.
_base_ = ["_base_/mmhybrid.py", "_base_/upernet_ade20k_160k.py", "_base_/backbones/transxnet_b.py"]
model = __import__("mmhybrid").replace_backbone(_base_.model, _base_.backbone)
