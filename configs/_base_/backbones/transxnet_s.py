backbone = dict(type="TransXNet", arch="small", drop_path_rate=0.2)
