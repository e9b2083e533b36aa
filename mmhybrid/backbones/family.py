"""What a class says of its family: the paper, and whose checkpoints fit.

All others read it through the registry; nobody else keeps a list of families.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor

NO_NAMES: Mapping[str, str] = MappingProxyType({})
Weights = dict[str, Tensor]  # by name


class Paper(NamedTuple):
    """Where a family comes from.

    ``collection`` is its name in the model index, ``code`` the file that holds what the paper is
    about, from the root of the repository, ``architecture`` what is new in it, in words.
    """

    collection: str
    title: str
    url: str
    code: str
    architecture: tuple[str, ...] = ()


class Published(NamedTuple):
    """How checkpoints of others name the parameters of a backbone.

    Attributes:
        names (Mapping[str, str]): What our names begin with, by what theirs begin with. ``*`` is a
            number; both have the same numbers in the same order.
        classifier (Mapping[str, str]): The same for a classifier of mmpretrain.
        signs (tuple[str, ...]): Regular expressions. A checkpoint is of this form if each is found
            in one of its names. By default each of ``names`` must be there.
    """

    names: Mapping[str, str] = NO_NAMES
    classifier: Mapping[str, str] = NO_NAMES
    signs: tuple[str, ...] = ()


class PretrainedWeights(NamedTuple):
    """A published checkpoint that models of a class can start from.

    Attributes:
        name (str): Model and data, as timm writes them: ``'transxnet_tiny.in1k'``. Its address is
            ``mmhybrid://`` and the name.
        url (str): Where the file is published.
        trained_on (str): Data set, in words.
        metrics (Mapping[str, float]): What was published of it, in percent, by the metric's name.
        license (str): SPDX identifier of the weights' licence, ``'unknown'`` where none is stated.
        options (Mapping[str, Any]): Constructor arguments of the class, so that it fits whole.
        config (str): Name of the config whose whole model it fits. Defaults to ``''``: it fits
            the backbone alone.
        host (str): The plain model whose weights they are. Defaults to ``''``: the class's own.
        sha256 (str): What the file's SHA-256 starts with. Defaults to ``''``: not published.
        other_url (str): Where to look if there is no file at ``url``. Defaults to ``''``: nowhere.
        preprocessing (Mapping[str, Any]): ``mean`` and ``std`` of colours from 0 to 1 and
            ``crop_pct``, the side of the central crop over that of the image, where they are not
            ImageNet's usual ones and 0.9.
    """

    name: str
    url: str
    trained_on: str
    metrics: Mapping[str, float]
    license: str
    options: Mapping[str, Any]
    config: str = ""
    host: str = ""
    sha256: str = ""
    other_url: str = ""
    preprocessing: Mapping[str, Any] = MappingProxyType({})


class Backbone(BaseModule):
    """What makes a backbone one of ours, whether its class is in this package or a user's own.

    Attributes:
        family (str): Name for messages and tables, e.g. ``'DW-ViT'``. Defaults to the class's name.
        signs (tuple[str, ...]): Regular expressions; weights under our names are recognised by
            each being found in one of them.
        published (tuple[Published, ...]): Other names under which its weights are published.
        hosts (Mapping[str, Published]): Names of plain models whose weights it can start from, by
            what a message calls those. They are turned into ours only for a model of the class.
        one_sided (str): Regular expression of names that only we or only the authors save.
        pretrained (tuple[PretrainedWeights, ...]): The catalogue: what a model can start from.
        may_be_new (tuple[str, ...]): Regular expressions of our names, matched at their beginning,
            of parts that a checkpoint may lack, as a whole: all names that one expression
            matches with the same groups are one part.
        no_weight_decay (tuple[str, ...]): Regular expressions, found in the names of
            parameters that should not decay, beside biases and what is flat.
    """

    family: str
    paper: Paper | None = None
    signs: tuple[str, ...] = ()
    published: tuple[Published, ...] = ()
    hosts: Mapping[str, Published] = MappingProxyType({})
    one_sided: str = "(?!)"  # nothing
    pretrained: tuple[PretrainedWeights, ...] = ()
    may_be_new: tuple[str, ...] = ()
    no_weight_decay: tuple[str, ...] = ()

    def __init__(self, init_cfg: dict | list[dict] | None = None) -> None:
        given = [init_cfg] if isinstance(init_cfg, dict) else init_cfg or []
        # By its name ours is found, which knows the names of published weights.
        named = [
            {**one, "type": "Pretrained"} if one.get("type") is PretrainedInit else one
            for one in given
        ]
        super().__init__(named[0] if isinstance(init_cfg, dict) else named or init_cfg)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "family" not in cls.__dict__:
            cls.family = cls.__name__

    @classmethod
    def suggest(cls, weights: Weights) -> dict[str, Any] | None:
        """Constructor arguments of a model that may take these tensors, None if there is none.

        ``weights`` have the names and shapes of their file, without prefixes.
        """
        return None

    def block_names(self) -> list[str]:
        """The names of the blocks that are built, none if the class does not say."""
        return []

    @classmethod
    def from_published(cls, weights: Weights, prefix: str = "") -> Weights:
        """Gives published tensors, which have our names already, our shapes.

        ``weights`` may be changed; ``prefix`` is the backbone's name there, e.g. ``'backbone.'``.
        """
        return weights

    @classmethod
    def to_published(cls, weights: Weights, image_size: int = 224) -> Weights:
        """The way back: a backbone's tensors, and a classifier's ``head.fc``, in their shapes.

        ``weights`` may be changed; ``image_size``, in pixels, is for what depends on it.
        """
        return weights

    def adapt_state_dict(self, state_dict: Weights, prefix: str = "") -> Weights:
        """:meth:`from_published`, and fits what depends on the size of images to this model."""
        return self.from_published(state_dict, prefix)


def is_backbone(module: object) -> bool:
    """Whether this is a backbone of ours: one of the package or one that a user wrote for it.

    Example:
        >>> from mmhybrid.backbones import XFormer, is_backbone
        >>> [is_backbone(module) for module in (XFormer(), XFormer().stem)]
        [True, False]
    """
    return isinstance(module, Backbone)
