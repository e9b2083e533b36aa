# Mask R-CNN with timm's Next-ViT-S on COCO, in the recipe of the other backbones. Any model of timm
# with stages goes here by its model_name.
_base_ = [
    "_base_/mmhybrid.py",
    "_base_/mask_rcnn_coco_1x.py",
    "_base_/backbones/timm_nextvit_s.py",
]
model = __import__("mmhybrid").replace_backbone(_base_.model, _base_.backbone)
sync_bn = "torch"  # statistics over all GPUs: each sees two images
