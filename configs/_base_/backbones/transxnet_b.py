# TransXNet-B with the authors' weights, trained on ImageNet-1K.
backbone = dict(
    type="TransXNet",
    arch="base",
    drop_path_rate=0.3,
    norm_cfg=dict(type="SyncBN"),
    init_cfg=dict(type="Pretrained", checkpoint="mmhybrid://transxnet_base.in1k"),
)
