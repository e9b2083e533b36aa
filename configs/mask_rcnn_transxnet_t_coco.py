# Mask R-CNN with TransXNet-T on COCO, the published 1x recipe.
_base_ = ["_base_/mmhybrid.py", "_base_/mask_rcnn_coco_1x.py", "_base_/backbones/transxnet_t.py"]
model = __import__("mmhybrid").replace_backbone(_base_.model, _base_.backbone)

train_dataloader = dict(num_workers=4)
default_hooks = dict(checkpoint=dict(save_best="auto"))
