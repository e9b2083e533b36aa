# mmpretrain's MobileViT-S, a neighbour of XFormer, with OpenMMLab's weights, trained on ImageNet-1K
# on images in BGR of mean 0 and standard deviation 255.
weights = "mmhybrid://mobilevit-small_3rdparty_in1k"

backbone = dict(
    type="mmpretrain.MobileViT",
    arch="small",
    init_cfg=dict(type="Pretrained", checkpoint=weights, prefix="backbone."),
)
