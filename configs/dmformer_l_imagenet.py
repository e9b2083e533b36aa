_base_ = "./dmformer_s_imagenet.py"

model = dict(backbone=dict(arch="large", drop_path_rate=0.2))
