# TransXNet-T with the authors' weights, trained on ImageNet-1K.
backbone = dict(
    type="TransXNet",
    arch="tiny",
    drop_path_rate=0.1,
    norm_cfg=dict(type="SyncBN"),
    init_cfg=dict(type="Pretrained", checkpoint="mmhybrid://transxnet_tiny.in1k"),
)
