# mmdet's own Mask R-CNN with Swin-T and Microsoft's weights, given depth-wise shortcuts that add
# zeros at first: it starts as the plain model.
_base_ = [
    "_base_/mmhybrid.py",
    "mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py",
    "_base_/backbones/swin_t_with_dw_shortcut.py",
]
model = __import__("mmhybrid").replace_backbone(_base_.model, _base_.backbone)
