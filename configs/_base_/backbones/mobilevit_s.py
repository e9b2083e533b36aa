# mmpretrain's MobileViT-S, a neighbour of XFormer, with OpenMMLab's weights, trained on ImageNet-1K
# on images in BGR of mean 0 and standard deviation 255.
weights = "https://download.openmmlab.com/mmclassification/v0/mobilevit/"
weights += "mobilevit-small_3rdparty_in1k_20221018-cb4f741c.pth"

backbone = dict(
    type="mmpretrain.MobileViT",
    arch="small",
    init_cfg=dict(type="Pretrained", checkpoint=weights, prefix="backbone."),
)
