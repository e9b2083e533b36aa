# mmpretrain's VAN-B3, a neighbour of DMFormer, with OpenMMLab's weights, trained on ImageNet-1K on
# images of mean 127.5 and standard deviation 127.5.
weights = "mmhybrid://van-large_3rdparty_in1k"

backbone = dict(
    type="mmpretrain.VAN",
    arch="large",
    drop_path_rate=0.3,
    init_cfg=dict(type="Pretrained", checkpoint=weights, prefix="backbone."),
)
