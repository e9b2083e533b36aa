backbone = dict(type="DWVisionTransformer", arch="small")
