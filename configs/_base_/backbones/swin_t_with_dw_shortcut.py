# mmdet's Swin-T with Microsoft's weights, and depth-wise shortcuts that add zeros at first.
weights = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
weights += "swin_tiny_patch4_window7_224.pth"

backbone = dict(
    type="DepthwiseShortcutBackbone",
    backbone=dict(
        type="mmdet.SwinTransformer",
        drop_path_rate=0.2,
        convert_weights=True,
        init_cfg=dict(type="Pretrained", checkpoint=weights),
    ),
    zero_init=True,
)
