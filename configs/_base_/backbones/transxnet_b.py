backbone = dict(type="TransXNet", arch="base", drop_path_rate=0.3)
