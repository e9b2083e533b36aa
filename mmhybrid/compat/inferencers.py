"""Inferencers that are given weights without a config.

MMEngine's ``BaseInferencer``, which mmdet's and mmseg's inherit from, executes the text of the
config that the file holds. Here the text is read as data.
"""

import functools
from types import ModuleType
from typing import Any

from mmhybrid.import_hooks import add_import_hook
from mmhybrid.weights.config_data import checked_config, config_from_text
from mmhybrid.weights.errors import CheckpointError, UnsafeCheckpointError


def config_in(checkpoint: Any, source: str) -> dict[str, Any]:
    """The config of a file of MMEngine's, as data.

    Raises:
        CheckpointError: It holds none, or one that asks for more than registered classes.
    """
    text = None
    for path in (("message_hub", "runtime_info", "cfg"), ("meta", "cfg"), ("meta", "config")):
        node = checkpoint
        for key in path:
            node = node.get(key) if isinstance(node, dict) else None
        text = text or node
    if not text:
        raise CheckpointError(f"{source} does not hold its config: give the config as a file")
    try:
        return checked_config(config_from_text(text, source))
    except ImportError as error:
        raise UnsafeCheckpointError(
            f"the config in {source} {error}: give the config as a file"
        ) from error


def _patch(module: ModuleType) -> None:
    original = module.BaseInferencer._init_model

    @functools.wraps(original)
    def _init_model(self: Any, cfg: Any, weights: str | None, device: str = "cpu") -> Any:
        if not cfg and weights is not None:
            cfg.update(config_in(module._load_checkpoint(weights, map_location="meta"), weights))
        return original(self, cfg, weights, device)

    module.BaseInferencer._init_model = _init_model


def apply() -> None:
    """Changes MMEngine's inferencer when it is imported."""
    add_import_hook("mmengine.infer.infer", _patch)
