# YOLOv3 at 320x320 with a reconstruction of XFormer on COCO. The recipe is not known; this is
# mmdet's of the mobile YOLOv3, 96 channels in neck and head, 300 epochs.
_base_ = ["_base_/mmhybrid.py", "_base_/yolov3_coco_300e.py", "_base_/backbones/xformer_s.py"]
model = __import__("mmhybrid").replace_backbone(_base_.model, _base_.backbone)
# The learned scales of cross feature attention do not decay.
no_decay = {"temperature": dict(decay_mult=0.0), "attention.scale": dict(decay_mult=0.0)}
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=no_decay))
quick = dict(lr=1e-3, iterations=300)  # --quick
