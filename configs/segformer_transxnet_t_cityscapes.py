# The all-MLP decoder with TransXNet-T on Cityscapes. The paper has no such model; this is
# SegFormer's recipe.
_base_ = ["./_base_/mmhybrid.py", "./_base_/segformer_cityscapes_160k.py"]

weights = "https://github.com/LMMMEng/TransXNet/releases/download/v1.0/transx-t.pth.tar"

model = dict(
    backbone=dict(
        _delete_=True,
        type="TransXNet",
        arch="tiny",
        drop_path_rate=0.1,
        norm_cfg=dict(type="SyncBN"),
        init_cfg=dict(type="Pretrained", checkpoint=weights),
    ),
    decode_head=dict(in_channels=[48, 96, 224, 448]),
)
