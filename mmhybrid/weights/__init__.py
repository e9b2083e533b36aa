"""Reading a file of weights safely, recognising whose it is, renaming its keys."""

from mmhybrid.weights.catalogue import get_weights, list_weights
from mmhybrid.weights.errors import (
    CheckpointError,
    CheckpointWriteError,
    DamagedCheckpointError,
    UnsafeCheckpointError,
)
from mmhybrid.weights.loading import load_checkpoint, load_weights
from mmhybrid.weights.reading import read_checkpoint
from mmhybrid.weights.report import LoadReport
from mmhybrid.weights.writing import write_checkpoint

__all__ = [
    "CheckpointError",
    "CheckpointWriteError",
    "DamagedCheckpointError",
    "LoadReport",
    "UnsafeCheckpointError",
    "get_weights",
    "list_weights",
    "load_checkpoint",
    "load_weights",
    "read_checkpoint",
    "write_checkpoint",
]
