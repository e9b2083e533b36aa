_base_ = "./upernet_transxnet_t_ade20k.py"

weights = "https://github.com/LMMMEng/TransXNet/releases/download/v1.0/transx-s.pth.tar"

model = dict(
    backbone=dict(arch="small", drop_path_rate=0.2, init_cfg=dict(checkpoint=weights)),
    decode_head=dict(in_channels=[64, 128, 320, 512]),
    auxiliary_head=dict(in_channels=320),
)
