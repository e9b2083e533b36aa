# Mask R-CNN with a reconstruction of DMFormer-L on COCO. The recipe is not known; this is VAN's.
_base_ = ["_base_/mmhybrid.py", "_base_/mask_rcnn_coco_1x.py", "_base_/backbones/dmformer_l.py"]
model = __import__("mmhybrid").replace_backbone(_base_.model, _base_.backbone)
# Not all of its norms have `norm` in their names.
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0))
