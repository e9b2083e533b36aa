"""Our backbones in timm's own registry: ``import mmhybrid.timm`` and ``timm.create_model(...)``.

A model's name is its family's and its preset's, ``transxnet_tiny``; its tags are those of the
catalogue, ``transxnet_tiny.in1k``.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from inspect import signature
from typing import Any

from timm.layers import ClassifierHead
from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    is_model,
    register_model,
)
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from mmhybrid.backbones.base import HybridBackbone, backbone_classes
from mmhybrid.backbones.family import PretrainedWeights
from mmhybrid.errors import ArgumentError
from mmhybrid.weights.catalogue import SCHEME
from mmhybrid.weights.comparing import compare
from mmhybrid.weights.errors import CheckpointError
from mmhybrid.weights.loading import load_checkpoint, refused

__all__ = ["TimmModel", "register", "register_all"]
default_cfgs: dict[str, Any] = {}  # where timm looks for them


class TimmModel(nn.Module):
    """A backbone and a classifier, with the methods that timm expects of a model.

    Parameters have the names of mmpretrain's classifiers, ``backbone.`` and ``head.fc.``, so that
    :func:`mmhybrid.load_checkpoint` takes published files and those of OpenMMLab.

    Args:
        backbone (type[HybridBackbone]): The class.
        num_classes (int): 0 for no classifier. Defaults to 1000.
        in_chans (int): Channels of the images. Defaults to 3.
        global_pool (str): timm's name of the pooling; ``''``, without a classifier, for none.
            Defaults to ``'avg'``.
        drop_rate (float): Dropout rate before the classifier. Defaults to 0.
        drop_path_rate (float): Stochastic depth rate of the last block. Defaults to 0.
        img_size (int | tuple[int, int] | None): Side of the images, in pixels, that positions are
            made for, the ``image_size`` of a class; others take any size as they are. Defaults to
            None: that of the class.
        options: Other arguments of the class.

    Example:
        >>> import timm
        >>> import mmhybrid.timm
        >>> model = timm.create_model('xformer_small', features_only=True, out_indices=(1, 3))
        >>> model.feature_info.channels(), model.feature_info.reduction()
        ([96, 160], [8, 32])
    """

    def __init__(
        self,
        backbone: type[HybridBackbone],
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        img_size: int | tuple[int, int] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if img_size is not None and "image_size" in signature(backbone).parameters:
            is_square = isinstance(img_size, list | tuple) and len(set(img_size)) == 1
            options["image_size"] = img_size[0] if is_square else img_size
        options = dict(in_channels=in_chans, drop_path_rate=drop_path_rate, **options)
        self.backbone = backbone(**options)
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.num_features = self.head_hidden_size = self.backbone.feature_channels[-1]
        sizes = zip(self.backbone.stage_channels, self.backbone.stage_strides, strict=True)
        self.feature_info = [
            dict(num_chs=channels, reduction=stride, module=f"backbone.stage{index}")
            for index, (channels, stride) in enumerate(sizes)
        ]
        self.head = ClassifierHead(self.num_features, num_classes, global_pool, drop_rate)
        convs = (name for name, part in self.named_modules() if isinstance(part, nn.Conv2d))
        self._traits = dict(first_conv=next(convs))  # what timm fits to in_chans

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Maps images to the last map, (B, C, h, w); one pixel of a model with a class token."""
        return _as_map(self.backbone(x)[-1])

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pools and classifies a map; ``pre_logits`` stops before the classifier."""
        return self.head(x, pre_logits=pre_logits)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """What :meth:`forward_features` returns, and the maps of these stages before it.

        ``indices`` are of ``feature_info``; a number means so many of the last ones. Maps have an
        output norm where the backbone has one, whatever ``norm`` says, and nothing stops early.
        """
        if output_fmt != "NCHW":
            raise ArgumentError(f"output_fmt={output_fmt!r}: maps are NCHW")
        taken, _ = feature_take_indices(len(self.feature_info), indices)
        output, maps = self.backbone.forward_intermediates(x, taken)
        return maps if intermediates_only else (_as_map(output), maps)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes the classifier; which stages are built, ``out_indices`` says before."""
        if prune_head:
            self.reset_classifier(0, "")
        return feature_take_indices(len(self.feature_info), indices)[0]

    def get_classifier(self) -> nn.Module:
        """The linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Makes a new classifier, and another pooling if it is named."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether the backward pass recomputes activations."""
        self.backbone.with_cp = enable

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """The depth of a parameter by its name; ``coarse`` counts stages, not blocks."""
        if not coarse:
            return lambda name: self.backbone.get_layer_depth(name, "backbone.")[0]
        stages = {
            id(parameter): stage + 1
            for stage in range(-1, self.backbone.num_stages)
            for part in self.backbone.stage_parts(stage)
            for parameter in (part.parameters() if isinstance(part, nn.Module) else [part])
        }
        found = {name: stages.get(id(value)) for name, value in self.named_parameters()}
        last = self.backbone.num_stages + 1
        return lambda name: last if found.get(name) is None else found[name]

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that should not decay, beside biases and what is flat."""
        patterns = self.backbone.no_weight_decay
        names = (name for name, _ in self.named_parameters() if name.startswith("backbone."))
        return {name for name in names if any(re.search(one, name) for one in patterns)}

    def load_pretrained(self, path: str) -> None:
        """Loads a file or an address of the catalogue, whoever's names it has."""
        load_checkpoint(self, path)


def _as_map(x: Tensor) -> Tensor:
    return x if x.ndim == 4 else x[..., None, None]


def register(
    name: str,
    backbone: type[HybridBackbone],
    weights: Sequence[PretrainedWeights] = (),
    **options: Any,
) -> None:
    """Registers one model with timm.

    Args:
        name: timm's name of it.
        backbone: The class.
        weights: Published weights of it, the default first.
        options: Arguments of the class.

    Example:
        >>> import timm
        >>> import mmhybrid.timm
        >>> from mmhybrid.backbones import TransXNet
        >>> mmhybrid.timm.register('test_mini_transxnet', TransXNet, **TransXNet.test_options)
        >>> timm.create_model('test_mini_transxnet', num_classes=7).get_classifier().out_features
        7
    """

    def create(pretrained: bool = False, **given: Any) -> nn.Module:
        if given.get("features_only"):
            indices = given.pop("out_indices", (0, 1, 2, 3))
            # timm's number means so many of the last ones.
            stages = tuple(range(-indices, 0)) if isinstance(indices, int) else tuple(indices)
            fixed = dict(options, out_indices=stages)
        else:
            stages, fixed = (), {**options, **backbone.classifier_options, "out_indices": (-1,)}
        model = build_model_with_cfg(
            partial(TimmModel, backbone, **fixed),
            name,
            pretrained,
            feature_cfg=dict(out_indices=stages, feature_cls="getter"),
            pretrained_filter_fn=partial(_fitted, of_backbone=bool(stages)),
            **given,
        )
        own = getattr(model, "model", model)  # inside what gives features
        strides = own.backbone.feature_strides
        sides = model.pretrained_cfg["input_size"][-2:]
        pooled = tuple(-(-side // strides[-1]) for side in sides) if strides else (1, 1)
        model.pretrained_cfg.update(first_conv=own._traits["first_conv"], pool_size=pooled)
        return model

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"{backbone.family}, as {backbone.__name__}({dict(options)})."
    cfgs = {f"{name}.{one.name.partition('.')[2]}": _cfg(backbone, one) for one in weights}
    default_cfgs.update(generate_default_cfgs(cfgs or {name: _cfg(backbone)}))
    globals()[name] = register_model(create)
    __all__.remove(name)  # timm adds it


def _fitted(
    weights: Mapping[str, Tensor], model: nn.Module, of_backbone: bool
) -> dict[str, Tensor]:
    """What timm reads itself, as the model has it: timm drops without a word what does not fit.

    Where the maps of a backbone are asked for, the head, which goes, may be another one.
    """
    report, fitted, verdict = compare(model, weights)
    if any(one.of_backbone or not of_backbone for one in verdict.refusals):
        raise CheckpointError(refused(verdict, report, model, weights))
    return fitted


def _cfg(backbone: type[HybridBackbone], weights: PretrainedWeights | None = None) -> dict:
    about = dict(classifier="head.fc", paper_name=backbone.paper and backbone.paper.title)
    if weights is None:
        return about
    size = re.search(r"_(\d+)$", weights.name)  # of the images last trained on
    side = int(size[1]) if size else 224
    return about | dict(
        url=weights.url,
        file=SCHEME + weights.name,  # read before the address, by our own loader
        custom_load=True,
        license=None if weights.license == "unknown" else weights.license.lower(),
        input_size=(3, side, side),
        num_classes=1000 if "top-1" in weights.metrics else 0,
        **{"crop_pct": 0.9, **weights.preprocessing},
    )


def register_all() -> list[str]:
    """Registers every preset of every registered backbone that timm has no model of; their names.

    Importing this module does. Call it again after registering a class of your own.

    A model has the options that its published weights need (a bias on queries, keys and values),
    with them and without; ``timm.create_model`` takes others by their names.

    Example:
        >>> import mmhybrid.timm
        >>> mmhybrid.timm.register_all()
        []
    """
    names = []
    for backbone in backbone_classes():
        for arch in backbone.presets:
            name = f"{backbone.family}_{arch}".lower().replace("-", "_")
            if is_model(name):
                continue
            own = [one for one in backbone.pretrained if one.name.partition(".")[0] == name]
            options: Mapping[str, Any] = own[0].options if own else dict(arch=arch)
            register(name, backbone, own, **options)
            names.append(name)
    return names


register_all()
