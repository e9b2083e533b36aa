# UperNet with a reconstruction of DMFormer-L on ADE20K.
_base_ = ["_base_/mmhybrid.py", "_base_/upernet_ade20k_160k.py", "_base_/backbones/dmformer_l.py"]
model = __import__("mmhybrid").replace_backbone(_base_.model, _base_.backbone)
