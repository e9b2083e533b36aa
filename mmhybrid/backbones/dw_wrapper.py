"""The depth-wise shortcut for any transformer backbone of mmdet, mmseg or mmpretrain."""

import threading
from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmhybrid.backbones.dw_names import DW_PAPER
from mmhybrid.backbones.family import Backbone, PretrainedWeights
from mmhybrid.errors import ArgumentError
from mmhybrid.layers.depthwise_shortcut import DepthwiseShortcuts
from mmhybrid.layers.norm import keep_statistics


@MODELS.register_module()
class DepthwiseShortcutBackbone(Backbone):
    """Gives a registered backbone depth-wise shortcuts, https://arxiv.org/abs/2407.19394.

    The rule by which blocks are found:

    * A block is an item of a ``ModuleList`` or ``Sequential`` that has children named ``attn`` and
      ``ffn`` or ``mlp``. The blocks of one such list are a stage.
    * It maps (B, L, C) tokens, its first argument, to the same. C is that of its first LayerNorm.
    * The height and width of the map are its second argument if that is a pair of integers (Swin,
      PVT, MiT, Twins), else what the backbone's ``patch_embed`` returned beside the tokens (ViT,
      BEiT). Tokens beyond height times width are class tokens, which come first and get nothing.

    Shortcuts lie outside the block: windows, drop path and ``with_cp`` of the wrapped backbone do
    not touch them. Shortcuts of frozen blocks are trained all the same.

    Its checkpoints fit: its own ``init_cfg`` works, and so does loading a whole model that was
    trained without the wrapper; then only the shortcuts are missing.

    Args:
        backbone (dict): Config of the wrapped backbone.
        dw_kernel_sizes, dw_span, zero_init, norm_cfg: Of
            :class:`mmhybrid.layers.depthwise_shortcut.DepthwiseShortcuts`, one a stage.
        norm_eval (bool): Whether the shortcuts' normalisations keep their running statistics in
            training. Defaults to False.
        init_cfg (dict | list[dict] | None): MMEngine's, of wrapper and wrapped together.

    Example:
        >>> backbone = dict(
        ...     type='mmhybrid.DepthwiseShortcutBackbone',
        ...     backbone=dict(
        ...         type='mmdet.SwinTransformer',
        ...         convert_weights=True,
        ...         init_cfg=dict(
        ...             type='Pretrained',
        ...             checkpoint='mmhybrid://swin_tiny_patch4_window7_224.in1k')))
    """

    paper = DW_PAPER
    signs = (r"shortcuts\.\d+\.\d+\.convs\.",)
    pretrained = (
        PretrainedWeights(
            name="swin_tiny_patch4_window7_224.in1k",
            url="https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
            "swin_tiny_patch4_window7_224.pth",
            trained_on="ImageNet-1K",
            metrics={"top-1": 81.2},
            license="MIT",
            options=dict(backbone=dict(type="mmdet.SwinTransformer", convert_weights=True)),
            host="Swin-T",
        ),
    )
    wrapped_prefix = "backbone."  # where weights from before the wrapping go
    may_be_new = (r"shortcuts\.", r"backbone\.norm(\d)\.")

    def __init__(
        self,
        backbone: dict[str, Any],
        dw_kernel_sizes: Sequence[int] | str = (3,),
        dw_span: int | str = 1,
        zero_init: bool = False,
        norm_cfg: dict[str, Any] = MappingProxyType(dict(type="BN")),
        norm_eval: bool = False,
        init_cfg: dict[str, Any] | list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.norm_eval = norm_eval
        self.backbone = MODELS.build(ConfigDict(backbone))  # some read init_cfg.checkpoint
        self.shortcuts = nn.ModuleList()
        self._block_names: list[list[str]] = []
        for names in _find_stages(self.backbone):
            blocks = [self.backbone.get_submodule(name) for name in names]
            shortcuts = DepthwiseShortcuts(
                _channels(blocks[0], names[0]),
                len(blocks),
                kernel_sizes=dw_kernel_sizes,
                span=dw_span,
                norm_cfg=norm_cfg,
                zero_init=zero_init,
            )
            for indices, shortcut in shortcuts.groups():
                if shortcut is not None:
                    bypass = _Bypass(shortcut)
                    blocks[indices[0]].register_forward_pre_hook(bypass.start, with_kwargs=True)
                    blocks[indices[-1]].register_forward_hook(bypass.add)
            self.shortcuts.append(shortcuts)
            self._block_names.append(names)
        if not self.shortcuts:
            raise ArgumentError(
                f"{type(self.backbone).__name__} has no blocks that take a shortcut: no ModuleList "
                "or Sequential in it has items with children named 'attn' and 'ffn' or 'mlp'"
            )
        if isinstance(patch_embed := getattr(self.backbone, "patch_embed", None), nn.Module):
            patch_embed.register_forward_hook(_keep_size)

    @property
    def out_indices(self) -> tuple[int, ...]:
        return tuple(self.backbone.out_indices)

    def block_names(self) -> list[str]:
        return [f"backbone.{name}" for names in self._block_names for name in names]

    def forward(self, *inputs: Any, **named_inputs: Any) -> Any:
        _calls.running.append(_Call())
        try:
            return self.backbone(*inputs, **named_inputs)
        finally:
            _calls.running.pop()

    def train(self, mode: bool = True) -> "DepthwiseShortcutBackbone":
        super().train(mode)
        if mode and self.norm_eval:
            keep_statistics(self.shortcuts)
        return self

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """That of the wrapped backbone; a shortcut is as deep as its last block."""
        if not hasattr(self.backbone, "get_layer_depth"):
            wrapped = type(self.backbone)
            raise ArgumentError(
                "layer-wise decay asks the backbone for the depth of each parameter, and "
                f"{wrapped.__module__.partition('.')[0]}.{wrapped.__name__}, inside of "
                f"{type(self).__name__}, has no get_layer_depth(param_name, prefix): wrap one "
                "that has it, such as mmpretrain.SwinTransformer, or train without the decay"
            )
        part, _, rest = param_name.removeprefix(prefix).partition(".")
        inner = f"{prefix}backbone."
        if part == "shortcuts":
            stage, index = (int(number) for number in rest.split(".")[:2])
            block = self._block_names[stage][self.shortcuts[stage].last_bypassed(index)]
            param_name = f"{inner}{block}.shortcut"
        return self.backbone.get_layer_depth(param_name, inner)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *others: Any, **named: Any
    ) -> None:
        # A checkpoint from before the wrapping has the wrapped backbone's names.
        if not any(key.startswith(f"{prefix}backbone.") for key in state_dict):
            for key in [key for key in state_dict if key.startswith(prefix)]:
                if not key.startswith(f"{prefix}shortcuts."):
                    name = f"{prefix}backbone.{key.removeprefix(prefix)}"
                    state_dict[name] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *others, **named)


class _Call:
    """What one run of a wrapped backbone carries from hook to hook.

    A module is shared by all threads that call it, so none of this lies on one.
    """

    def __init__(self) -> None:
        self.size: tuple[int, int] | None = None  # that a patch embedding returned
        self.entered: dict[_Bypass, tuple[Tensor, tuple[int, int]]] = {}


class _Calls(threading.local):
    """The runs of a thread, the innermost last; the first is of blocks that are called alone."""

    def __init__(self) -> None:
        self.running = [_Call()]


_calls = _Calls()


def _keep_size(module: nn.Module, inputs: Any, output: Any) -> None:
    """Keeps the height and width that a patch embedding returns."""
    if isinstance(output, (tuple, list)) and len(output) > 1 and _is_size(output[1]):
        _calls.running[-1].size = tuple(output[1])


class _Bypass:
    """Carries what enters one block around it, and maybe its successors."""

    def __init__(self, shortcut: nn.Module) -> None:
        self.shortcut = shortcut

    def start(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = _calls.running[-1]
        values = [*args, *kwargs.values()]
        tokens = values[0]
        size = tuple(values[1]) if len(values) > 1 and _is_size(values[1]) else call.size
        shape = tuple(tokens.shape)
        if len(shape) != 3 or size is None or size[0] * size[1] > shape[1]:
            raise ArgumentError(
                f"cannot put a depth-wise shortcut around {type(block).__name__}: it was given a "
                f"tensor of shape {shape} for a map of size {size}, not (B, H * W, C)"
            )
        call.entered[self] = tokens, size

    def add(self, block: nn.Module, args: Any, output: Tensor) -> Tensor:
        tokens, size = _calls.running[-1].entered.pop(self)
        num_class_tokens = tokens.shape[1] - size[0] * size[1]
        return output + self.shortcut(tokens, size, num_class_tokens)


def _is_size(value: Any) -> bool:
    is_pair = isinstance(value, (tuple, list)) and len(value) == 2
    # torch.jit.trace has tensors of one number for sizes.
    return is_pair and all(
        isinstance(side, (int, torch.SymInt)) or (isinstance(side, Tensor) and side.ndim == 0)
        for side in value
    )


def _find_stages(model: nn.Module) -> Iterator[list[str]]:
    """The names of the blocks of every stage."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.ModuleList, nn.Sequential)):
            names = [f"{name}.{i}" for i, item in module.named_children() if _is_block(item)]
            if names:
                yield names


def _is_block(module: nn.Module) -> bool:
    children = {name for name, _ in module.named_children()}
    return "attn" in children and not children.isdisjoint(("ffn", "mlp"))


def _channels(block: nn.Module, name: str) -> int:
    for module in block.modules():
        if isinstance(module, nn.LayerNorm):
            return module.normalized_shape[-1]
    raise ArgumentError(
        f"block {name} ({type(block).__name__}) has no LayerNorm that tells its channels; only "
        "blocks of (B, L, C) tokens take a depth-wise shortcut"
    )
