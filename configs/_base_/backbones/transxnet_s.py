# TransXNet-S with the authors' weights, trained on ImageNet-1K.
weights = "https://github.com/LMMMEng/TransXNet/releases/download/v1.0/transx-s.pth.tar"

backbone = dict(
    type="TransXNet",
    arch="small",
    drop_path_rate=0.2,
    norm_cfg=dict(type="SyncBN"),
    init_cfg=dict(type="Pretrained", checkpoint=weights),
)
