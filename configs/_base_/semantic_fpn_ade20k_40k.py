# Semantic FPN on ADE20K: 40k iterations of batch 16, AdamW 2e-4, polynomial decay. What readers of
# the DMFormer paper report, completed by PoolFormer's recipe.
_base_ = [
    "mmseg::_base_/models/fpn_r50.py",
    "mmseg::_base_/datasets/ade20k.py",
    "mmseg::_base_/default_runtime.py",
    "mmseg::_base_/schedules/schedule_40k.py",
]

crop_size = (512, 512)
data_preprocessor = dict(size=crop_size)
model = dict(
    data_preprocessor=data_preprocessor, pretrained=None, decode_head=dict(num_classes=150)
)
# 8 GPUs x 2 images = 16
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=2e-4, weight_decay=1e-4),
)
param_scheduler = [dict(type="PolyLR", eta_min=0.0, power=0.9, begin=0, end=40000, by_epoch=False)]
auto_scale_lr = dict(enable=False, base_batch_size=16)
