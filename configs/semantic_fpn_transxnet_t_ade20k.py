# Semantic FPN with TransXNet-T on ADE20K, the published recipe.
_base_ = [
    "_base_/mmhybrid.py",
    "_base_/semantic_fpn_ade20k_80k.py",
    "_base_/backbones/transxnet_t.py",
]
model = __import__("mmhybrid").replace_backbone(_base_.model, _base_.backbone)
