"""One's own images in the usual formats: recognised, read, checked, and written for training."""

from mmhybrid.datasets.folders.reading import describe, read_folder
from mmhybrid.datasets.folders.records import (
    FolderData,
    ImageRecord,
    Instance,
    PreparedData,
    TaskError,
)
from mmhybrid.datasets.folders.writing import read_prepared, write_dataset

__all__ = [
    "FolderData",
    "ImageRecord",
    "Instance",
    "PreparedData",
    "TaskError",
    "describe",
    "read_folder",
    "read_prepared",
    "write_dataset",
]
