# mmpretrain's VAN-B3, a neighbour of DMFormer, with OpenMMLab's weights, trained on ImageNet-1K on
# images of mean 127.5 and standard deviation 127.5.
weights = "https://download.openmmlab.com/mmclassification/v0/van/"
weights += "van-large_8xb128_in1k_20220501-f212ba21.pth"

backbone = dict(
    type="mmpretrain.VAN",
    arch="large",
    drop_path_rate=0.3,
    init_cfg=dict(type="Pretrained", checkpoint=weights, prefix="backbone."),
)
