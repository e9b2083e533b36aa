# UperNet with a reconstruction of DMFormer-S on ADE20K.
# No weights of DMFormer are published: give your own by model.backbone.init_cfg.
_base_ = ["./_base_/mmhybrid.py", "./_base_/upernet_ade20k_160k.py"]

model = dict(
    backbone=dict(
        _delete_=True,
        type="DMFormer",
        arch="small",
        drop_path_rate=0.1,
        norm_cfg=dict(type="SyncBN"),
    ),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
