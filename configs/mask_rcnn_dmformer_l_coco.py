_base_ = "./mask_rcnn_dmformer_s_coco.py"

model = dict(backbone=dict(arch="large", drop_path_rate=0.2))
