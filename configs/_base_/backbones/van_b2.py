# mmpretrain's VAN-B2, a neighbour of DMFormer, with OpenMMLab's weights, trained on ImageNet-1K on
# images of mean 127.5 and standard deviation 127.5.
weights = "mmhybrid://van-base_3rdparty_in1k"

backbone = dict(
    type="mmpretrain.VAN",
    arch="base",
    drop_path_rate=0.2,
    init_cfg=dict(type="Pretrained", checkpoint=weights, prefix="backbone."),
)
