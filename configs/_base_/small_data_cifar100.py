# CIFAR-100 at 224 pixels, trained as CIFAR-10.
_base_ = "./small_data_cifar10.py"

model = dict(head=dict(num_classes=100))
data_preprocessor = dict(
    num_classes=100, mean=[129.285, 124.0575, 112.4295], std=[68.1615, 65.382, 70.431]
)
pad_value = [129, 124, 112]

train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
augment, erase = train_pipeline[-3:-1]
augment.hparams.pad_val = erase.fill_color = pad_value
erase.fill_std = data_preprocessor["std"]
dataset = dict(type="CIFAR100", data_root="data/cifar100")
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, **dataset))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
