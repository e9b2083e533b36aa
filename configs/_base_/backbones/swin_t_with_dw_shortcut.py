# mmdet's Swin-T with Microsoft's weights, and depth-wise shortcuts that add zeros at first.
weights = "mmhybrid://swin_tiny_patch4_window7_224.in1k"

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
