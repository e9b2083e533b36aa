# timm's Next-ViT-S, a hybrid of convolutions and attention, with the weights that timm names for
# it, trained on ImageNet-1K.
backbone = dict(
    type="mmpretrain.TIMMBackbone",
    model_name="nextvit_small.bd_in1k",
    pretrained=True,
    drop_path_rate=0.2,  # as Swin-T
)
