_base_ = "./semantic_fpn_dmformer_s_ade20k.py"

model = dict(backbone=dict(arch="large", drop_path_rate=0.2))
