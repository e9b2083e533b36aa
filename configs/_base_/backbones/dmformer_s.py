# No weights of DMFormer are published: give your own by model.backbone.init_cfg.
backbone = dict(type="DMFormer", arch="small", drop_path_rate=0.1, norm_cfg=dict(type="SyncBN"))
