"""What can be wrong with a checkpoint."""

from mmhybrid.errors import UserError


class CheckpointError(UserError, RuntimeError):
    """A checkpoint cannot be used; the message says which, why and what to do."""


class UnsafeCheckpointError(CheckpointError):
    """A file asks for more than weights and plain values. Nothing of it has been executed."""


class DamagedCheckpointError(CheckpointError):
    """A file is cut short or its bytes have changed."""


class CheckpointWriteError(CheckpointError):
    """A checkpoint cannot be written: the disk is full, or the folder may not be written to."""
