# TransXNet-B with the authors' weights, trained on ImageNet-1K.
weights = "https://github.com/LMMMEng/TransXNet/releases/download/v1.0/transx-b.pth.tar"

backbone = dict(
    type="TransXNet",
    arch="base",
    drop_path_rate=0.3,
    norm_cfg=dict(type="SyncBN"),
    init_cfg=dict(type="Pretrained", checkpoint=weights),
)
