# The all-MLP decoder of SegFormer on Cityscapes: 160k iterations of batch 8, crops of 1024x1024.
_base_ = [
    "mmseg::_base_/models/segformer_mit-b0.py",
    "mmseg::_base_/datasets/cityscapes_1024x1024.py",
    "mmseg::_base_/default_runtime.py",
    "./adamw_poly_160k.py",
]

crop_size = (1024, 1024)
data_preprocessor = dict(size=crop_size)
model = dict(
    data_preprocessor=data_preprocessor,
    test_cfg=dict(mode="slide", crop_size=(1024, 1024), stride=(768, 768)),
)
# The head learns ten times as fast. A mere `head` is in names of DW-CaiT's backbone too.
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(decode_head=dict(lr_mult=10.0))))
# 8 GPUs x 1 image = 8
train_dataloader = dict(batch_size=1, num_workers=4)
auto_scale_lr = dict(enable=False, base_batch_size=8)
