# Semantic FPN with VAN-B2 on ADE20K: a neighbour of DMFormer, whose weights are published. The
# recipe is that of VAN's authors, in batches of 32.
_base_ = ["_base_/mmhybrid.py", "_base_/semantic_fpn_ade20k_40k.py", "_base_/backbones/van_b2.py"]
model = __import__("mmhybrid").replace_backbone(_base_.model, _base_.backbone)
# What these weights are used to.
data_preprocessor = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5])
model["data_preprocessor"] = data_preprocessor

# 8 GPUs x 4 images = 32
train_dataloader = dict(batch_size=4)
sync_bn = "torch"  # statistics over all GPUs
auto_scale_lr = dict(base_batch_size=32)
