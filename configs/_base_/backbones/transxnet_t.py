backbone = dict(type="TransXNet", arch="tiny", drop_path_rate=0.1)
