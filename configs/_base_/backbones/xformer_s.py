# No weights of XFormer are published: give your own by model.backbone.init_cfg.
backbone = dict(type="XFormer", arch="small", norm_cfg=dict(type="SyncBN"))
