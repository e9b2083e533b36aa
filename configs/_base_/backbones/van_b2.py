# mmpretrain's VAN-B2, a neighbour of DMFormer, with OpenMMLab's weights, trained on ImageNet-1K on
# images of mean 127.5 and standard deviation 127.5.
weights = "https://download.openmmlab.com/mmclassification/v0/van/"
weights += "van-base_8xb128_in1k_20220501-6a4cc31b.pth"

backbone = dict(
    type="mmpretrain.VAN",
    arch="base",
    drop_path_rate=0.2,
    init_cfg=dict(type="Pretrained", checkpoint=weights, prefix="backbone."),
)
