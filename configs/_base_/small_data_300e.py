# Small data sets from scratch, as the authors of the DW shortcut train: 300 epochs of batch 128, in
# float16 (--amp).
_base_ = "mmpretrain::_base_/default_runtime.py"

model = dict(
    type="ImageClassifier",
    head=dict(
        type="LinearClsHead",
        loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
    ),
    train_cfg=dict(augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]),
)
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=5e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    # No decay for biases, norms and all else that is flat.
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        custom_keys=dict(relative_position_bias_table=dict(decay_mult=0.0)),
    ),
    clip_grad=dict(max_norm=5.0),
)
# 20 epochs of warm-up from a thousandth, then a cosine down to a hundredth
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, end=20, by_epoch=True, convert_to_iter_based=True),
    dict(
        type="CosineAnnealingLR",
        T_max=280,
        eta_min_ratio=0.01,
        begin=20,
        end=300,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=1)
val_cfg = dict()
test_cfg = dict()
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best="auto"))
auto_scale_lr = dict(base_batch_size=128)
