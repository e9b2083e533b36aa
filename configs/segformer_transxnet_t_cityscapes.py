# The all-MLP decoder with TransXNet-T on Cityscapes. The paper has no such model; this is
# SegFormer's recipe.
_base_ = [
    "_base_/mmhybrid.py",
    "_base_/segformer_cityscapes_160k.py",
    "_base_/backbones/transxnet_t.py",
]
model = __import__("mmhybrid").replace_backbone(_base_.model, _base_.backbone)
