backbone = dict(type="DWVisionTransformer", arch="tiny")
