# Mask R-CNN with a reconstruction of DMFormer-S on COCO. The recipe is not known; this is VAN's.
# No weights of DMFormer are published: give your own by model.backbone.init_cfg.
_base_ = ["./_base_/mmhybrid.py", "./_base_/mask_rcnn_coco_1x.py"]

model = dict(
    backbone=dict(
        _delete_=True,
        type="DMFormer",
        arch="small",
        drop_path_rate=0.1,
        norm_cfg=dict(type="SyncBN"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
