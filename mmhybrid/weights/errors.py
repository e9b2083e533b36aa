"""What can be wrong with a checkpoint."""

from typing import NoReturn

from mmhybrid.errors import UserError


class CheckpointError(UserError, RuntimeError):
    """A checkpoint cannot be used; the message says which, why and what to do."""


class UnsafeCheckpointError(CheckpointError):
    """A file asks for more than weights and plain values. Nothing of it has been executed."""


class DamagedCheckpointError(CheckpointError):
    """A file is cut short or its bytes have changed."""


class CheckpointWriteError(CheckpointError):
    """A checkpoint cannot be written: the disk is full, or the folder may not be written to."""


def refuse(why: str) -> NoReturn:
    """Raises UnsafeCheckpointError."""
    raise UnsafeCheckpointError(
        f"refused, {why}, which weights and plain values never need. Nothing of it was executed. "
        "If you trust whoever made the file, save it again where it was made, as "
        "torch.save({'state_dict': model.state_dict()}, path), or as safetensors."
    )
