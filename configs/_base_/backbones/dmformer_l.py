backbone = dict(type="DMFormer", arch="large", drop_path_rate=0.2)
