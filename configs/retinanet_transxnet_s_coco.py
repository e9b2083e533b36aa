_base_ = "./retinanet_transxnet_t_coco.py"

weights = "https://github.com/LMMMEng/TransXNet/releases/download/v1.0/transx-s.pth.tar"

model = dict(
    backbone=dict(arch="small", drop_path_rate=0.2, init_cfg=dict(checkpoint=weights)),
    neck=dict(in_channels=[128, 320, 512]),
)
