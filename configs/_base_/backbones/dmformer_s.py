backbone = dict(type="DMFormer", arch="small", drop_path_rate=0.1)
