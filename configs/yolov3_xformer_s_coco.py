# YOLOv3 at 320x320 with a reconstruction of XFormer on COCO. The recipe is not known; this is
# mmdet's of the mobile YOLOv3, 96 channels in neck and head, 300 epochs.
# No weights of XFormer are published: give your own by model.backbone.init_cfg.
_base_ = ["./_base_/mmhybrid.py", "mmdet::yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py"]

model = dict(
    backbone=dict(
        _delete_=True,
        type="XFormer",
        arch="small",
        out_indices=(1, 2, 3),
        norm_cfg=dict(type="SyncBN"),
    ),
    neck=dict(in_channels=[160, 128, 96]),  # the deepest first
)
find_unused_parameters = False
