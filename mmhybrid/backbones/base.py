"""What every backbone of this package promises."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from mmhybrid.layers.norm import frozen_statistics

SMALLEST_INPUT = 32
Self = TypeVar("Self", bound="HybridBackbone")


class Backbone(BaseModule):
    """What makes a backbone one of ours, whether its class is in this package or a user's own.

    Attributes:
        family (str): Name for messages and tables, e.g. ``'DW-ViT'``. Defaults to the class's name.
    """

    family: str

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "family" not in cls.__dict__:
            cls.family = cls.__name__


def is_backbone(module: object) -> bool:
    """Whether this is a backbone of ours: one of the package or one that a user wrote for it."""
    return isinstance(module, Backbone)


def backbone_classes() -> list[type[HybridBackbone]]:
    """Every registered :class:`HybridBackbone`, those of a user's own included, by name."""
    registries = (MODELS, *MODELS.children.values())
    classes = {c for registry in registries for c in registry.module_dict.values()}
    found = [c for c in classes if isinstance(c, type) and issubclass(c, HybridBackbone)]
    return sorted(found, key=lambda c: c.__name__)


class HybridBackbone(Backbone):
    """Base of all backbones but the one that wraps another.

    A subclass calls ``super().__init__``, builds ``stem`` and ``stages``, a list of blocks each,
    and calls :meth:`freeze_stages`. One with other parts implements :meth:`forward`,
    :meth:`stage_parts` and :meth:`get_layer_depth` for them.

    Args:
        channels: of all stages.
        strides: of all stages, in input pixels.
        out_indices: stages whose outputs are returned, counted from 0; negative ones count from the
            end.
        frozen_stages: -1 trains everything, 0 freezes the stem, k freezes the stem and the first k
            stages.
        norm_eval: keep the running statistics of batch normalisations as they are in training.
        with_cp: recompute blocks in the backward pass instead of keeping their activations.
        init_cfg: MMEngine's, e.g. ``dict(type='Pretrained', checkpoint=...)``.

    Attributes:
        test_options: constructor arguments that make a model of a few milliseconds, for tests.
        feature_channels: channels of each returned map.
        feature_strides: stride of each returned map.
    """

    test_options: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        *,
        channels: Sequence[int],
        strides: Sequence[int],
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.num_stages = len(channels)
        self.out_indices = _checked_out_indices(out_indices, self.num_stages)
        if not -1 <= frozen_stages <= self.num_stages:
            raise ValueError(
                f"frozen_stages={frozen_stages}: allowed are -1 (none) to {self.num_stages} (all)"
            )
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.feature_channels = tuple(channels[i] for i in self.out_indices)
        self.feature_strides = tuple(strides[i] for i in self.out_indices)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Maps (B, in_channels, H, W), at least 32 pixels on each side, to one (B, C, h, w) a stage
        of ``out_indices``."""
        self.check_input(x)
        x = self.stem(x)
        outputs = []
        for stage, blocks in enumerate(self.stages):
            for block in blocks:
                x = self.run_block(block, x)
            if stage in self.out_indices:
                outputs.append(x)
        return tuple(outputs)

    def stage_parts(self, stage: int) -> Iterable[nn.Module | nn.Parameter]:
        """The modules and parameters of a stage, or of the stem for ``stage=-1``."""
        return [self.stem] if stage < 0 else self.stages[stage : stage + 1]

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Depth of a parameter, for layer-wise learning rate decay.

        Args:
            param_name: name of the parameter in the whole model.
            prefix: name of the backbone in the whole model, e.g. ``'backbone.'``.

        Returns:
            The depth, 0 for the stem, and the number of depths. Output norms and what is no part of
            the backbone are the deepest.
        """
        depths = [len(blocks) for blocks in self.stages]
        num_depths = sum(depths) + 2
        kind, _, rest = param_name.removeprefix(prefix).partition(".")
        if kind == "stem":
            return 0, num_depths
        if kind == "stages":
            stage, block = map(int, rest.split(".")[:2])
            return 1 + sum(depths[:stage]) + block, num_depths
        return num_depths - 1, num_depths

    def freeze_stages(self) -> None:
        """Stops gradients and running statistics of the stem and the first ``frozen_stages``
        stages."""
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
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def run_block(self, block: nn.Module, *inputs: Any) -> Any:
        """Calls a block, recomputing it in the backward pass if ``with_cp`` says so."""
        if not (self.with_cp and self.training and torch.is_grad_enabled()):
            return block(*inputs)
        return checkpoint(
            block,
            *inputs,
            use_reentrant=False,
            # The second pass repeats the first; its batch statistics have been counted already.
            context_fn=lambda: (nullcontext(), frozen_statistics(block)),
        )

    def check_input(self, x: Tensor) -> None:
        """Raises ValueError for images too small for the last stage."""
        if not torch.compiler.is_compiling() and min(x.shape[-2:]) < SMALLEST_INPUT:
            raise ValueError(
                f"{type(self).__name__} takes images of at least "
                f"{SMALLEST_INPUT}x{SMALLEST_INPUT} pixels, not {x.shape[-2]}x{x.shape[-1]}"
            )


def resolve_arch(
    arch: str | Mapping[str, Any], presets: Mapping[str, Mapping[str, Any]], defaults: str
) -> dict[str, Any]:
    """Turns ``arch`` into a full set of settings.

    Args:
        arch: name of a preset or its first letter, or settings that replace those of the preset
            ``defaults``.
        presets: settings by name.
        defaults: the preset that fills what a mapping leaves out.

    Raises:
        ValueError: unknown name or setting; says which there are and which is near.
    """
    if isinstance(arch, str):
        short_forms = {name[0]: name for name in reversed(presets)}
        name = short_forms.get(arch.lower(), arch.lower())
        if name not in presets:
            raise ValueError(_unknown("arch", arch, [*presets, *short_forms]))
        return dict(presets[name])
    settings = dict(presets[defaults])
    for name, value in arch.items():
        if name not in settings:
            raise ValueError(_unknown("setting of arch", name, list(settings)))
        settings[name] = value
    return settings


def _unknown(what: str, value: str, choices: list[str]) -> str:
    near = difflib.get_close_matches(str(value), choices, n=1)
    return (
        f"{what} {value!r} is unknown; choose from {', '.join(choices)}"
        f"{f' (did you mean {near[0]!r}?)' if near else ''}"
    )


def _checked_out_indices(out_indices: Sequence[int], num_stages: int) -> tuple[int, ...]:
    if isinstance(out_indices, int):
        out_indices = (out_indices,)
    for index in out_indices:
        if not -num_stages <= index < num_stages:
            raise ValueError(
                f"out_indices={tuple(out_indices)}: {index} is out of range for {num_stages} stages"
            )
    resolved = tuple(index % num_stages for index in out_indices)
    if not resolved or list(resolved) != sorted(set(resolved)):
        raise ValueError(
            f"out_indices={tuple(out_indices)}: name at least one stage, each once, in rising order"
        )
    return resolved
