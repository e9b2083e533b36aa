# CIFAR-10 at its own 32 pixels in patches of 4, from folders of images (train/CLASS/*.jpg and
# test/CLASS/*.jpg): the published recipe scaled to minutes on a CPU. For the plain host beside it:
#   --cfg-options "model.backbone.dw_kernel_sizes=()"
_base_ = "./dw_vit_t_cifar10.py"

# A third of the augmentation, through which so short a run could not learn. Published: mix every
# batch, magnitude 9, erase a part of every fourth image.
model = dict(
    backbone=dict(patch_size=4, image_size=32),
    train_cfg=dict(probs=[1 / 6, 1 / 6]),
)
# Files are read as BGR; the pickles of the published setting hold RGB.
data_preprocessor = dict(to_rgb=True)
load = dict(type="LoadImageFromFile")
_, crop, flip, augment, erase, pack = _base_.train_pipeline
crop.scale = 32
augment.magnitude_level = 3
augment.hparams.pad_val = erase.fill_color = _base_.pad_value[::-1]
erase.update(erase_prob=0.25 / 3, fill_std=_base_.data_preprocessor.std[::-1])
train_pipeline, test_pipeline = [load, crop, flip, augment, erase, pack], [load, pack]

folder = dict(_delete_=True, type="CustomDataset", data_root="data/cifar10_images")
train_set = dict(data_prefix="train", pipeline=train_pipeline, **folder)
test_set = dict(data_prefix="test", pipeline=test_pipeline, **folder)
train_dataloader = dict(batch_size=32, dataset=train_set, sampler=dict(type="InfiniteSampler"))
test_dataloader = val_dataloader = dict(batch_size=500, dataset=test_set)

# Published: 300 epochs, 20 of them to warm up.
steps, warm_up = 600, 40
span = dict(by_epoch=False, begin=warm_up, end=steps, T_max=steps - warm_up)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, end=warm_up),
    dict(type="CosineAnnealingLR", eta_min_ratio=0.01, **span),
]
train_cfg = dict(_delete_=True, by_epoch=False, max_iters=steps, val_interval=steps // 2)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=steps), logger=dict(interval=20))
log_processor = dict(by_epoch=False)
