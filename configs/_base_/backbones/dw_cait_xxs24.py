backbone = dict(type="DWCaiT", arch="xxs24")
