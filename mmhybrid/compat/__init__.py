"""What lets today's OpenMMLab run on today's PyTorch: one obstacle a file."""

from mmhybrid.compat import (
    distribution_names,
    fsdp_resuming,
    hue_jitter,
    inferencers,
    late_workers,
    mmcv_ext,
    optimizer_names,
    package_metadata,
    reading_checkpoints,
    resuming,
    reverted_norms,
    spawned_workers,
    transformers_version,
)


def apply() -> None:
    """Removes every obstacle that is present here. Calling it again changes nothing."""
    # First those without which MMEngine's own parts cannot be imported.
    optimizer_names.apply()
    package_metadata.apply()
    distribution_names.apply()
    mmcv_ext.apply()
    hue_jitter.apply()
    reading_checkpoints.apply()
    resuming.apply()
    reverted_norms.apply()
    inferencers.apply()
    spawned_workers.apply()
    late_workers.apply()
    fsdp_resuming.apply()
    transformers_version.apply()
