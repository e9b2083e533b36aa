_base_ = "./retinanet_transxnet_t_coco.py"

weights = "https://github.com/LMMMEng/TransXNet/releases/download/v1.0/transx-b.pth.tar"

model = dict(
    backbone=dict(arch="base", drop_path_rate=0.3, init_cfg=dict(checkpoint=weights)),
    neck=dict(in_channels=[152, 336, 672]),
)
