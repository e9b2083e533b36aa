# UperNet with TransXNet-T on ADE20K. The paper has no UperNet; this is Swin's recipe.
_base_ = ["./_base_/mmhybrid.py", "./_base_/upernet_ade20k_160k.py"]

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
    auxiliary_head=dict(in_channels=224),
)
