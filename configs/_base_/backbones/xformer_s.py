backbone = dict(type="XFormer", arch="small")
