"""Whose weights a checkpoint holds, and how their names become ours.

A registered backbone says itself how its weights are recognised and published.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from typing import NamedTuple

from mmhybrid.backbones.base import backbone_classes
from mmhybrid.backbones.family import Backbone, Published


class Family(NamedTuple):
    """Weights of one origin, under one set of names."""

    name: str
    signs: tuple[str, ...]  # regular expressions, each of which is found in some name
    published: Published = Published()  # how the names become ours
    backbone: type[Backbone] | None = None  # the class that they fit, if it is one of ours
    host: bool = False  # of the plain model that this class can start from


# What users load by mistake. More special ones come first.
FOREIGN = (
    Family("DW-ViT or DW-CaiT (mmhybrid's names)", (r"shortcuts\.\d+\.convs\.",)),
    Family("Swin v2", (r"attn\.cpb_mlp\.",)),
    Family("ConvNeXt", (r"stages\.\d+\.\d+\.(dwconv|depthwise_conv)\.",)),
    Family("ConvNeXt (timm's names)", (r"stages\.\d+\.blocks\.\d+\.conv_dw\.",)),
    Family("VAN", (r"block\d\.\d+\.attn\.spatial_gating_unit\.",)),
    Family("PVT v2 or MiT (SegFormer)", (r"block\d\.\d+\.mlp\.dwconv\.",)),
    Family("PVT", (r"block\d\.\d+\.attn\.kv\.",)),
    Family("MiT (SegFormer, mmseg's names)", (r"layers\.\d+\.\d+\.\d+\.attn\.attn\.in_proj",)),
    Family("ViT (vit-pytorch's names)", (r"to_patch_embedding\.\d", r"pos_embedding")),
    Family("PoolFormer", (r"network\.\d+\.\d+\.layer_scale_1",)),
    Family("ResNet", (r"layer1\.\d+\.conv1\.", r"layer4\.\d+\.conv1\.")),
    Family("Darknet", (r"conv_res_block\d\.",)),
    Family("VGG", (r"features\.28\.",)),
    Family("MobileNet", (r"features\.\d+\.conv\.\d",)),
)
WHOLE_MODELS = (
    ("a detector", r"^(rpn_head|roi_head|bbox_head|query_embedding)\."),
    ("a segmentor", r"^(decode_head|auxiliary_head)\."),
    ("a classifier", r"^(head|classifier|mlp_head|fc)\."),
)


# What others put before a backbone's names.
WRAPPERS = re.compile(
    r"^((_orig_mod|module|model|backbone|encoder|net|student|teacher|ema|ema_model|model_ema|"
    r"\w+_(encoder|backbone|network))\.)+"
)


def families() -> Iterator[Family]:
    """All that is known, in the order in which it is looked for."""
    # A subclass that says nothing of its own names is no family of its own.
    own = {"signs", "published"}
    classes = [one for one in backbone_classes(Backbone) if own & vars(one).keys()]
    for backbone in classes:
        for form in backbone.published:
            signs = form.signs or tuple(_pattern(name).pattern for name in form.names)
            yield Family(backbone.family, signs, form, backbone)
    for backbone in classes:
        if backbone.signs:
            both = any(form.names for form in backbone.published)
            name = f"{backbone.family} (mmhybrid's names)" if both else backbone.family
            yield Family(name, backbone.signs, backbone=backbone)
    for backbone in classes:
        for name, form in backbone.hosts.items():
            yield Family(name, form.signs, form, backbone, host=True)
    yield from FOREIGN


def has_signs(signs: Iterable[str], keys: Collection[str]) -> bool:
    """Whether each regular expression is found in some name."""
    text = "\n".join(keys)  # a model has a thousand names, and there are many families
    return all(re.search(sign, text, re.MULTILINE) for sign in signs)


def without_prefix(key: str) -> str:
    """A name without those of the models, trainers and wrappers around a backbone."""
    return WRAPPERS.sub("", key)


def recognise(keys: Iterable[str], started: Iterable[type] | None = None) -> Family | None:
    """The family of these names, whatever stands before them; None if it is unknown.

    Given the classes that are ``started`` from them, hosts of other classes do not count.
    """
    bare = list(dict.fromkeys(map(without_prefix, keys)))
    fitting = (family for family in families() if has_signs(family.signs, bare))
    if started is not None:
        ours = tuple(started)
        fitting = (
            family
            for family in fitting
            if not family.host or any(issubclass(one, family.backbone) for one in ours)
        )
    return next(fitting, None)


def describe(keys: Collection[str]) -> str:
    """Whose keys these seem to be, in words."""
    family = recognise(keys)
    bare = list(map(without_prefix, keys))
    whole = next((name for name, sign in WHOLE_MODELS if has_signs((sign,), bare)), None)
    if family is None:
        names = ", ".join(sorted(keys)[:4])
        return f"{whole or 'weights'} of a type that is not known here (such as {names})"
    return f"{whole} built on {family.name}" if whole else f"the weights of {family.name}"


def rename(
    keys: Iterable[str], target: Collection[str], started: Iterable[type] = ()
) -> dict[str, str]:
    """Maps published names to ours.

    Args:
        keys (Iterable[str]): Names in the checkpoint. Prefixes stay where they are.
        target (Collection[str]): Names in the model.
        started (Iterable[type]): Classes of the backbones in the model. Names of a plain model
            become ours for the class that can start from it.

    Returns:
        dict[str, str]: Our name of every key. Names of a backbone have no prefix; names that belong
        to a whole model have theirs.
    """
    keys = list(keys)
    family = recognise(keys, started)
    if family is None:
        return {key: key for key in keys}
    names, classifier = family.published.names, family.published.classifier
    if not all(any(key.startswith(new) for key in target) for new in classifier.values()):
        classifier = {}

    def ours(key: str) -> str:
        bare = without_prefix(key)
        new = renamed(key, {**classifier, **names})
        return new if new != key else key.removesuffix(bare) + renamed(bare, names)

    return {key: ours(key) for key in keys}


def renamed(key: str, names: Mapping[str, str]) -> str:
    """A name whose beginning is one of ``names``, with the other beginning; else as it is."""
    for old, new in names.items():
        if match := _pattern(old).match(key):
            for number in match.groups():
                new = new.replace("*", number, 1)
            return new + key[match.end() :]
    return key


@cache
def _pattern(beginning: str) -> re.Pattern[str]:
    """``layers.*.norm.``, where ``*`` is a number, as a regular expression."""
    return re.compile("^" + re.escape(beginning).replace(r"\*", r"(\d+)"))
