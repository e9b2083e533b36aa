"""transformers 5 beside mmpretrain.

mmpretrain's multimodal models inherit from classes and call functions that transformers 5 dropped,
so that mmpretrain, and mmdet, which imports it, cannot be imported at all. mmpretrain has
placeholders for these models where transformers is missing; they are taken with one that lacks what
it asks for, too.
"""

import importlib
from types import ModuleType

from mmhybrid.import_hooks import add_import_hook

NEEDED = (
    *("PreTrainedModel", "GenerationConfig", "GenerationMixin", "apply_chunking_to_forward"),
    *("find_pruneable_heads_and_indices", "prune_linear_layer"),
)


def _patch(module: ModuleType) -> None:
    if not module.WITH_MULTIMODAL:
        return
    try:
        there = importlib.import_module("transformers.modeling_utils")
        module.WITH_MULTIMODAL = all(hasattr(there, name) for name in NEEDED)
    except Exception:  # transformers says so in several ways
        module.WITH_MULTIMODAL = False


def apply() -> None:
    """Has mmpretrain leave out its multimodal models where transformers lacks what they ask for."""
    add_import_hook("mmpretrain.utils.dependency", _patch)
