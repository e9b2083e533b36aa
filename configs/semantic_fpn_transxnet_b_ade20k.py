_base_ = "./semantic_fpn_transxnet_t_ade20k.py"

weights = "https://github.com/LMMMEng/TransXNet/releases/download/v1.0/transx-b.pth.tar"

model = dict(
    backbone=dict(arch="base", drop_path_rate=0.3, init_cfg=dict(checkpoint=weights)),
    neck=dict(in_channels=[76, 152, 336, 672]),
)
