backbone = dict(type="DWCaiT", arch="xxs12")
