"""The catalogue: what the classes of all backbones say of published weights, in one list.

An entry's address is ``mmhybrid://`` and its name, wherever MMEngine takes an address.
"""

import difflib

from mmhybrid.backbones.base import backbone_classes
from mmhybrid.backbones.family import Backbone, PretrainedWeights
from mmhybrid.weights.errors import CheckpointError

SCHEME = "mmhybrid://"
_OPENMMLAB = "https://download.openmmlab.com/mmclassification/v0"
# Of mmpretrain's model index, for families that have no weights of their own: other people's
# backbones, which take the same heads. ``type`` is the registered class.
NEIGHBOURS = (
    PretrainedWeights(
        name="van-base_3rdparty_in1k",
        url=f"{_OPENMMLAB}/van/van-base_8xb128_in1k_20220501-6a4cc31b.pth",
        trained_on="ImageNet-1K",
        metrics={"top-1": 82.8},
        license="Apache-2.0",
        options=dict(type="mmpretrain.VAN", arch="base"),
        host="VAN-B2",
    ),
    PretrainedWeights(
        name="van-large_3rdparty_in1k",
        url=f"{_OPENMMLAB}/van/van-large_8xb128_in1k_20220501-f212ba21.pth",
        trained_on="ImageNet-1K",
        metrics={"top-1": 83.86},
        license="Apache-2.0",
        options=dict(type="mmpretrain.VAN", arch="large"),
        host="VAN-B3",
    ),
    PretrainedWeights(
        name="mobilevit-small_3rdparty_in1k",
        url=f"{_OPENMMLAB}/mobilevit/mobilevit-small_3rdparty_in1k_20221018-cb4f741c.pth",
        trained_on="ImageNet-1K",
        metrics={"top-1": 78.25},
        license="unknown",
        options=dict(type="mmpretrain.MobileViT", arch="small"),
        host="MobileViT-S",
    ),
)


def catalogue() -> list[tuple[PretrainedWeights, str]]:
    """All entries by name, each with the class that it fits: ``'TransXNet'``, ``'mmpretrain.VAN'``.

    Several classes may start from the same weights.
    """
    found = [(entry, entry.options["type"]) for entry in NEIGHBOURS]
    # What a class inherits is its parent's.
    for owner in sorted(backbone_classes(Backbone), key=lambda owner: len(owner.__mro__)):
        known = [entry for entry, _ in found]
        found += [(entry, owner.__name__) for entry in owner.pretrained if entry not in known]
    return sorted(found, key=lambda one: (one[0].name, one[1]))


def list_weights(model: str = "") -> list[PretrainedWeights]:
    """The published weights that models can start from, a user's own classes' included, by name.

    Args:
        model (str): A part of the name, in capitals or not. Defaults to ``''``: all.

    Example:
        >>> import mmhybrid
        >>> mmhybrid.list_weights('TransXNet_tiny')[0].license
        'Apache-2.0'
    """
    return [entry for entry, _ in catalogue() if model.lower() in entry.name.lower()]


def get_weights(name: str) -> PretrainedWeights:
    """The entry of a name, which ``mmhybrid://`` may stand before.

    Raises:
        CheckpointError: No entry has the name, or two files do.

    Example:
        >>> from mmhybrid.weights import get_weights
        >>> get_weights('mmhybrid://van-base_3rdparty_in1k').options['arch']
        'base'
    """
    name = name.removeprefix(SCHEME)
    found = [entry for entry in list_weights() if entry.name == name]
    if not found:
        names = [entry.name for entry in list_weights()]
        near = difflib.get_close_matches(name, names, n=3)
        raise CheckpointError(
            f"the catalogue has no weights {name!r}"
            + (f" (did you mean {' or '.join(map(repr, near))}?)" if near else "")
            + "; mmhybrid.list_weights() gives all that it has"
        )
    if len({entry.url for entry in found}) > 1:
        addresses = " and ".join(sorted({entry.url for entry in found}))
        raise CheckpointError(f"two files of the catalogue are called {name!r}: {addresses}")
    return found[0]
