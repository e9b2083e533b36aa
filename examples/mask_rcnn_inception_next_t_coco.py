# Mask R-CNN with InceptionNeXt-T on COCO: mmdet's model and data, Swin's optimizer.
_base_ = ["../configs/_base_/mmhybrid.py", "../configs/_base_/mask_rcnn_coco_1x.py"]

# Where the class is: tools/train.py finds it below the checkout.
custom_imports = dict(imports=["mmhybrid", "examples.inception_next"])

model = dict(
    backbone=dict(
        _delete_=True, type="InceptionNeXt", drop_path_rate=0.1, norm_cfg=dict(type="SyncBN")
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),  # feature_channels of the backbone
)

# Every layer learns slower than the one after it, once there are weights to start from.
optim_wrapper = dict(
    constructor="mmhybrid.LayerwiseDecayOptimWrapperConstructor",
    paramwise_cfg=dict(layer_decay_rate=0.95, norm_decay_mult=0.0),
)
