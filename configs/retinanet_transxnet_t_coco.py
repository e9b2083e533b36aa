# RetinaNet with TransXNet-T on COCO, the published 1x recipe.
_base_ = ["./_base_/mmhybrid.py", "./_base_/retinanet_coco_1x.py"]

weights = "https://github.com/LMMMEng/TransXNet/releases/download/v1.0/transx-t.pth.tar"

model = dict(
    backbone=dict(
        _delete_=True,
        type="TransXNet",
        arch="tiny",
        out_indices=(1, 2, 3),  # the neck uses no more, so no norm is built for the first stage
        drop_path_rate=0.1,
        norm_cfg=dict(type="SyncBN"),
        init_cfg=dict(type="Pretrained", checkpoint=weights),
    ),
    neck=dict(in_channels=[96, 224, 448], start_level=0),
)

train_dataloader = dict(num_workers=4)
default_hooks = dict(checkpoint=dict(save_best="auto"))
quick = dict(iterations=300, train_images=160)  # --quick: one stage learns in smaller steps
