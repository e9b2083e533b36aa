"""Batch normalisations that MMEngine makes of synchronised ones train on a batch of one image.

In a run of one process MMEngine's ``revert_sync_batchnorm`` puts a class of its own in the place of
every ``SyncBatchNorm``, ours included, which train on a single value per channel. Its own refuses
that, so that an epoch whose last batch is one image ends a run.
"""

from types import ModuleType

from mmhybrid.import_hooks import add_import_hook


def _patch(norm: ModuleType) -> None:
    from mmengine.model import utils

    if hasattr(utils, "_BatchNormXd"):
        utils._BatchNormXd = norm.BatchNormXd


def apply() -> None:
    """Has MMEngine use our class, as soon as that is imported."""
    add_import_hook("mmhybrid.layers.norm", _patch)
