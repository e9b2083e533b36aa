# Imports mmhybrid, which every config here needs. This base comes first, and imports while the
# config is still being read: beside setuptools 82 and later, MMEngine cannot read the bases that
# follow ('mmdet::...') without what mmhybrid repairs.
__import__("mmhybrid")

custom_imports = dict(imports=["mmhybrid"], allow_failed_imports=False)
