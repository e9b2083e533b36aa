"""Reading a file of weights safely, recognising whose it is, renaming its keys."""

from mmhybrid.checkpoints.errors import (
    CheckpointError,
    CheckpointWriteError,
    DamagedCheckpointError,
    UnsafeCheckpointError,
)
from mmhybrid.checkpoints.loading import LoadReport, load_checkpoint, load_weights
from mmhybrid.checkpoints.reading import read_checkpoint
from mmhybrid.checkpoints.writing import write_checkpoint

__all__ = [
    "CheckpointError",
    "CheckpointWriteError",
    "DamagedCheckpointError",
    "LoadReport",
    "UnsafeCheckpointError",
    "load_checkpoint",
    "load_weights",
    "read_checkpoint",
    "write_checkpoint",
]
