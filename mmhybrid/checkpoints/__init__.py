"""Reading a file of weights safely, recognising whose it is, renaming its keys."""

from mmhybrid.checkpoints.errors import (
    CheckpointError,
    DamagedCheckpointError,
    UnsafeCheckpointError,
)
from mmhybrid.checkpoints.loading import LoadReport, load_checkpoint, load_weights
from mmhybrid.checkpoints.reading import read_checkpoint

__all__ = [
    "CheckpointError",
    "DamagedCheckpointError",
    "LoadReport",
    "UnsafeCheckpointError",
    "load_checkpoint",
    "load_weights",
    "read_checkpoint",
]
