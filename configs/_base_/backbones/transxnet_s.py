# TransXNet-S with the authors' weights, trained on ImageNet-1K.
backbone = dict(
    type="TransXNet",
    arch="small",
    drop_path_rate=0.2,
    norm_cfg=dict(type="SyncBN"),
    init_cfg=dict(type="Pretrained", checkpoint="mmhybrid://transxnet_small.in1k"),
)
