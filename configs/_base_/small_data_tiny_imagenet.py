# Tiny-ImageNet at 224 pixels, trained as CIFAR-10.
_base_ = "./small_data_cifar10.py"

model = dict(head=dict(num_classes=200))
# Statistics of ImageNet, as published; images are read as BGR.
data_preprocessor = dict(
    num_classes=200, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)
pad_value = [104, 116, 124]

load = dict(type="LoadImageFromFile")
train_pipeline = [load, *_base_.train_pipeline]
test_pipeline = [load, *_base_.test_pipeline]
augment, erase = train_pipeline[-3:-1]
augment.hparams.pad_val = erase.fill_color = pad_value
erase.fill_std = data_preprocessor["std"][::-1]
dataset = dict(type="mmhybrid.TinyImageNet", data_root="data/tiny-imagenet-200")
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, **dataset))
val_dataloader = dict(dataset=dict(split="val", pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
