backbone = dict(type="DWSwinTransformer", arch="tiny", drop_path_rate=0.2)
