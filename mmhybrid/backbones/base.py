"""What every backbone of this package promises."""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from itertools import chain, product
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmhybrid.backbones.family import Backbone
from mmhybrid.errors import ArgumentError
from mmhybrid.layers.conv_norm import prefer_channels_last
from mmhybrid.layers.lean_training import run_lean
from mmhybrid.layers.norm import frozen_statistics, keep_statistics

SMALLEST_INPUT = 32
SHORT_NAMES = {"t": "tiny", "s": "small", "b": "base", "l": "large"}
Part = nn.Module | nn.Parameter
Self = TypeVar("Self", bound="HybridBackbone")


class Stage(NamedTuple):
    """The parts of a stage, under whatever names its backbone keeps them.

    Attributes:
        blocks (Sequence[nn.Module]): Run one after the other.
        downsample (nn.Module | None): Runs before them, on what the stage before made.
        output (nn.Module | None): Normalisation or head of what is returned.
        beside (Sequence[tuple[int, Part]]): What else belongs to the stage, each part with the
            index of the block that is as deep. The number of blocks means deeper than all of them.
    """

    blocks: Sequence[nn.Module]
    downsample: nn.Module | None = None
    output: nn.Module | None = None
    beside: Sequence[tuple[int, Part]] = ()


class HybridBackbone(Backbone):
    """Base of all backbones but the one that wraps another.

    A subclass calls ``super().__init__``, builds ``stem`` and ``stages``, a list of blocks each,
    and calls :meth:`freeze_stages`. One with other parts says in :meth:`get_stages` what they are.
    Every family also takes ``arch`` (see :func:`resolve_arch`), ``in_channels`` of the images (int,
    3), ``norm_cfg`` of batch normalisations (``dict(type='BN')``) and ``drop_path_rate``, the
    stochastic depth rate of the last block, which rises linearly from 0 (float, 0).

    Args:
        channels, strides (Sequence[int]): Of all stages; strides in pixels of the input.
        out_indices (Sequence[int]): Stages whose outputs are returned; negative ones count from the
            end. Later stages, and norms of others, are not built. Defaults to (0, 1, 2, 3).
        frozen_stages (int): 0 freezes the stem, k the first k stages too. Defaults to -1: none.
        norm_eval (bool): Whether batch normalisations keep their running statistics in training.
            Defaults to False.
        with_cp (bool): Whether the backward pass recomputes activations. Defaults to False.
        init_cfg (dict | list[dict] | None): MMEngine's. Defaults to None: that of the family.

    Attributes:
        test_options (Mapping[str, Any]): Constructor arguments of a model of a few milliseconds.
        presets (Mapping[str, Mapping]): Settings of each ``arch``, by its name.
        classifier_options (Mapping[str, Any]): Constructor arguments of a classifier's backbone,
            beside ``out_indices=(-1,)``.
        depths (Sequence[int] | None): Blocks of each stage, built or not. Defaults to those built.
        feature_channels, feature_strides (tuple[int, ...]): Of each returned map.
        stage_channels, stage_strides (tuple[int, ...]): Of each map that
            :meth:`forward_intermediates` can give.
    """

    test_options: Mapping[str, Any] = MappingProxyType({})
    presets: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    classifier_options: Mapping[str, Any] = MappingProxyType({})
    depths: Sequence[int] | None = None

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if len(channels) != len(strides):
            name = type(self).__name__
            raise ArgumentError(f"arch has {len(channels)} stages, and {name} has {len(strides)}")
        self.num_stages = len(channels)
        self.out_indices = _checked_out_indices(out_indices, self.num_stages)
        if not -1 <= frozen_stages <= self.num_stages:
            raise ArgumentError(
                f"frozen_stages={frozen_stages}: allowed are -1 (none) to {self.num_stages} (all)"
            )
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.stage_channels, self.stage_strides = tuple(channels), tuple(strides)
        self.feature_channels = tuple(channels[i] for i in self.out_indices)
        self.feature_strides = tuple(strides[i] for i in self.out_indices)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, in_channels, H, W), sides of at least 32, to one (B, C, h, w) an output."""
        return tuple(self._stage_maps(x, self.out_indices))

    def forward_intermediates(
        self, x: Tensor, indices: Sequence[int]
    ) -> tuple[Tensor, list[Tensor]]:
        """The last output of :meth:`forward`, and the maps of these stages, in rising order.

        A map has an output norm where its stage is among ``out_indices``.
        """
        last = self.out_indices[-1]
        *maps, output = self._stage_maps(x, {*indices, last})
        return output, [*maps, output] if last in indices else maps

    def _stage_maps(self, x: Tensor, indices: Collection[int]) -> list[Tensor]:
        self.check_input(x)
        x = run_lean(prefer_channels_last(x), self.stem)
        maps = []
        for index, stage in enumerate(self.get_stages()):
            if stage.downsample is not None:
                x = stage.downsample(x)
            x = self.run_stage(index, stage, x)
            if index in indices:
                maps.append(self.output_of(stage, x))
        return maps

    def get_stages(self) -> list[Stage]:
        """The stages that are built."""
        return [Stage(blocks) for blocks in self.stages]

    def block_names(self) -> list[str]:
        """The names of the blocks that are built."""
        names = {id(module): name for name, module in self.named_modules()}
        stages = self.get_stages()
        depths = self.depths or [len(stage.blocks) for stage in stages]
        return [
            names[id(block)]
            for stage, depth in zip(stages, depths, strict=False)  # some may not be built
            for block in stage.blocks[:depth]
        ]

    def run_stage(self, index: int, stage: Stage, x: Any, *inputs: Any) -> Any:
        """Runs the blocks of a stage, each with the same further ``inputs``."""
        for block in stage.blocks:
            x = self.run_block(block, x, *inputs)
        return x

    def output_of(self, stage: Stage, x: Any) -> Tensor:
        """What is returned of a stage, from what its last block made."""
        return x if stage.output is None else stage.output(x)

    def run_block(self, block: nn.Module, *inputs: Any) -> Any:
        """Calls a block, which ``with_cp`` recomputes in the backward pass."""
        if not (self.with_cp and self.training and torch.is_grad_enabled()):
            return block(*inputs)
        return checkpoint(
            block,
            *inputs,
            use_reentrant=False,
            # The second pass repeats the first; its batch statistics have been counted already.
            context_fn=lambda: (nullcontext(), frozen_statistics(block)),
        )

    def stem_parts(self) -> list[Part]:
        """The modules and parameters before the first stage."""
        return [self.stem]

    def stage_parts(self, stage: int) -> Iterable[Part]:
        """The modules and parameters of a stage, or of the stem for ``stage=-1``."""
        if stage < 0:
            return self.stem_parts()
        for one in self.get_stages()[stage : stage + 1]:  # none where it is not built
            parts = (one.downsample, *one.blocks, *(part for _, part in one.beside), one.output)
            return [part for part in parts if part is not None]
        return []

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Depth of a parameter, for layer-wise learning rate decay, and the number of depths.

        ``param_name`` is that in the whole model, ``prefix`` the backbone's, e.g. ``'backbone.'``.
        The stem has depth 0; output norms and what is not in the backbone are the deepest.
        """
        depths, number = self._depths
        part = param_name.removeprefix(prefix)
        while part and part not in depths:
            part = part.rpartition(".")[0]
        return depths.get(part, number - 1), number

    @cached_property
    def _depths(self) -> tuple[dict[str, int], int]:
        """The depth of each part by its name, and the number of depths."""
        names = {id(p): name for name, p in chain(self.named_modules(), self.named_parameters())}
        stages = self.get_stages()
        counts = self.depths or [len(stage.blocks) for stage in stages]
        depths = {names[id(part)]: 0 for part in self.stem_parts()}
        for index, stage in enumerate(stages):
            parts = [*enumerate(stage.blocks), *stage.beside]
            if stage.downsample is not None:
                parts.append((0, stage.downsample))
            depths |= {names[id(part)]: 1 + sum(counts[:index]) + block for block, part in parts}
        return depths, sum(counts) + 2

    def freeze_stages(self) -> None:
        """Stops gradients and running statistics of what ``frozen_stages`` says."""
        for stage in range(-1, self.frozen_stages):
            for part in self.stage_parts(stage):
                part.requires_grad_(False)
                if isinstance(part, nn.Module):
                    part.eval()

    def train(self: Self, mode: bool = True) -> Self:
        """Switches to training, but for what is frozen."""
        super().train(mode)
        self.freeze_stages()
        if mode and self.norm_eval:
            keep_statistics(self)
        return self

    def check_input(self, x: Tensor) -> None:
        """Raises ArgumentError for images too small for the last stage."""
        if not torch.compiler.is_compiling() and min(x.shape[-2:]) < SMALLEST_INPUT:
            raise ArgumentError(
                f"{type(self).__name__} takes images of at least "
                f"{SMALLEST_INPUT}x{SMALLEST_INPUT} pixels, not {x.shape[-2]}x{x.shape[-1]}"
            )


def backbone_classes(base: type[Backbone] = HybridBackbone) -> list[type]:
    """Every registered backbone that is a ``base``, those of a user's own included, by name.

    Example:
        >>> from mmhybrid.backbones import TransXNet, backbone_classes
        >>> TransXNet in backbone_classes()
        True
    """
    registries = (MODELS, *MODELS.children.values())
    classes = {c for registry in registries for c in registry.module_dict.values()}
    found = [c for c in classes if isinstance(c, type) and issubclass(c, base)]
    return sorted(found, key=lambda c: c.__name__)


def resolve_arch(
    arch: str | Mapping[str, Any], presets: Mapping[str, Mapping[str, Any]], defaults: str
) -> dict[str, Any]:
    """Turns ``arch`` into a full set of settings.

    Args:
        arch (str | Mapping[str, Any]): Name of a preset, ``'t'``, ``'s'``, ``'b'`` or ``'l'`` for
            tiny, small, base or large, or settings that replace those of ``defaults``.
        presets (Mapping[str, Mapping[str, Any]]): Settings by name.
        defaults (str): The preset that fills what a mapping leaves out.

    Example:
        >>> from mmhybrid.backbones import resolve_arch
        >>> resolve_arch(dict(depth=5), {'tiny': dict(depth=3, width=8)}, 'tiny')
        {'depth': 5, 'width': 8}
    """
    if isinstance(arch, str):
        name = arch if arch in presets else SHORT_NAMES.get(arch.lower(), arch.lower())
        if name not in presets:
            short = [letter for letter, long in SHORT_NAMES.items() if long in presets]
            raise ArgumentError(_unknown("arch", arch, [*presets, *short]))
        return dict(presets[name])
    preset = presets[defaults]
    for name, value in arch.items():
        if name not in preset:
            raise ArgumentError(_unknown("setting of arch", name, list(preset)))
        _check_setting(name, value, preset[name])
    settings = {**preset, **arch}
    # Settings that are as long in the preset have an entry for each of the same stages.
    sizes = {name: len(one) for name, one in preset.items() if isinstance(one, list | tuple)}
    for name, other in product(filter(sizes.__contains__, arch), sizes):
        one, two = settings[name], settings[other]
        if sizes[name] == sizes[other] and len(one) != len(two):
            raise ArgumentError(
                f"{name}={one!r} of arch has {len(one)} entries, and {other}={two!r} has {len(two)}"
            )
    return settings


def _check_setting(name: str, value: Any, preset: Any) -> None:
    """Whether a number, or several, stand where the preset has such."""
    several = isinstance(preset, list | tuple)
    if not all(isinstance(one, Real) for one in (preset if several else [preset])):
        return
    is_ratio = "mlp_ratio" in name  # the others are strides
    values = value if several else [value]
    if not isinstance(values, list | tuple) or not all(
        isinstance(one, Real if is_ratio else Integral) for one in values
    ):
        whole = "" if is_ratio else "whole "
        wanted = f"{whole}numbers" if several else f"a {whole}number"
        raise ArgumentError(f"{name}={value!r} of arch: give {wanted}, such as {preset}")


def check_image_size(image_size: Any) -> None:
    """Raises ArgumentError unless this is the side of a square, in pixels."""
    if not isinstance(image_size, Integral) or image_size < 1:
        raise ArgumentError(
            f"image_size={image_size!r}: give the side, in pixels, of the square images that "
            "positions are made for; images of other sizes and shapes are taken all the same"
        )


def _unknown(what: str, value: str, choices: list[str]) -> str:
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"{what} {value!r} is unknown; choose from {', '.join(choices)}{hint}"


def _checked_out_indices(out_indices: Sequence[int], num_stages: int) -> tuple[int, ...]:
    if isinstance(out_indices, int):
        out_indices = (out_indices,)
    for index in out_indices:
        if not -num_stages <= index < num_stages:
            raise ArgumentError(
                f"out_indices={tuple(out_indices)}: {index} is out of range for {num_stages} stages"
            )
    resolved = tuple(index % num_stages for index in out_indices)
    if not resolved or list(resolved) != sorted(set(resolved)):
        raise ArgumentError(
            f"out_indices={tuple(out_indices)}: name at least one stage, each once, in rising order"
        )
    return resolved
