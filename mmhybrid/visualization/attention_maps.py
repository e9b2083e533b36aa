"""What a network looks at: maps of one image, as plain arrays. They are drawn elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmhybrid.backbones import BACKBONES
from mmhybrid.deploy.onnx_outputs import NamedOutputs
from mmhybrid.layers.cross_feature_attention import CrossCovarianceAttention, unit_length
from mmhybrid.layers.depthwise_shortcut import DepthwiseShortcut
from mmhybrid.layers.dynamic_convolution import InputDependentDepthwiseConv
from mmhybrid.layers.dynamic_multi_level_attention import DynamicMultiLevelAttention
from mmhybrid.layers.overlapping_attention import OverlappingSpatialReductionAttention

Call = tuple[nn.Module, tuple[Any, ...]]


def calls_of(backbone: nn.Module, kind: type[nn.Module], x: Tensor) -> list[Call]:
    """Runs a backbone, and returns all modules of a kind with what they were called with."""
    calls: list[Call] = []
    hooks = [
        module.register_forward_pre_hook(lambda m, args: calls.append((m, args)))
        for module in backbone.modules()
        if isinstance(module, kind)
    ]
    try:
        with torch.no_grad():
            backbone(x)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def last_of_each_size(calls: list[Call]) -> list[Call]:
    """Of the calls, the last with each number of channels: one a stage."""
    last = {call[1][0].shape[1]: call for call in calls}
    return list(last.values())


def feature_maps(backbone: nn.Module, x: Tensor) -> list[np.ndarray]:
    """Each output map as colours: its three principal components over all positions.

    Returns:
        One (h, w, 3) a stage, 0 to 1.
    """
    with torch.no_grad():
        return [_principal_colours(y[0]) for y in backbone(x) if y.ndim == 4]


def _principal_colours(y: Tensor) -> np.ndarray:
    points = y.flatten(1).t().double()  # (positions, channels)
    points = points - points.mean(dim=0)
    _, _, directions = torch.linalg.svd(points, full_matrices=False)
    # The sign of a component means nothing; this one is the same for the same image.
    directions = directions[:3] * directions[:3].sum(dim=1, keepdim=True).sign()
    colours = points @ directions.t()
    low, high = colours.quantile(0.01, dim=0), colours.quantile(0.99, dim=0)
    colours = ((colours - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    colours = torch.nn.functional.pad(colours, (0, 3 - colours.shape[1]))
    return colours.unflatten(0, y.shape[1:]).numpy()


def effective_receptive_fields(backbone: nn.Module, x: Tensor) -> list[np.ndarray]:
    """How much each pixel moves the middle of each output map.

    Luo et al., https://arxiv.org/abs/1701.04128: the gradient of the sum of all channels there,
    absolute values summed over colours.

    Returns:
        One (H, W) a stage, its largest value 1.
    """
    x = x.clone().requires_grad_()
    maps = [y for y in backbone(x) if y.ndim == 4]
    fields = []
    for y in maps:
        middle = y[0, :, y.shape[2] // 2, y.shape[3] // 2].sum()
        (gradient,) = torch.autograd.grad(middle, x, retain_graph=True)
        field = gradient[0].abs().sum(dim=0)
        fields.append((field / field.max().clamp_min(1e-30)).numpy())
    return fields


def area_of(field: np.ndarray, share: float = 0.5) -> float:
    """The part of the pixels, the strongest first, that makes up this share of a field."""
    values = np.sort(field.ravel())[::-1].cumsum()
    return float((np.searchsorted(values, share * values[-1]) + 1) / values.size)


def dynamic_kernels(backbone: nn.Module, x: Tensor) -> list[np.ndarray]:
    """The kernels that TransXNet mixes for this image, in the last block of each stage.

    Returns:
        One (channels, K, K) a stage.
    """
    calls = last_of_each_size(calls_of(backbone, InputDependentDepthwiseConv, x))
    with torch.no_grad():
        return [module.kernels(args[0])[0][0].numpy() for module, args in calls]


def attention_of_pixel(
    backbone: nn.Module, x: Tensor, row: float, column: float
) -> list[np.ndarray]:
    """Where TransXNet's attention looks from one place, in the last block of each stage.

    Only the scores of this one query are made: H * W / ratio^2 values a head.

    Args:
        row, column: of the place, 0 to 1.

    Returns:
        One (h, w) a stage, the mean of the heads, of sum 1.
    """
    maps = []
    calls = calls_of(backbone, OverlappingSpatialReductionAttention, x)
    for module, (features, position) in last_of_each_size(calls):
        with torch.no_grad():
            height, width = features.shape[-2:]
            query = min(int(row * height), height - 1) * width + min(int(column * width), width - 1)
            keys = module.kv(module.reduce(features)).chunk(2, dim=1)[0]
            q = module._split_heads(module.q(features))[0, :, query]  # (heads, d)
            k = module._split_heads(keys)[0]  # (heads, N_k, d)
            scores = torch.einsum("hd,hkd->hk", q, k) * q.shape[-1] ** -0.5
            if position.table is not None:
                scores = scores + position.table[0, :, query]
            else:
                scores = scores + position.query[0, :, query] @ position.key.t()
            weights = scores.softmax(dim=-1).mean(dim=0)
            maps.append(weights.unflatten(0, keys.shape[-2:]).numpy())
    return maps


def gates(backbone: nn.Module, x: Tensor) -> list[np.ndarray]:
    """The factors of DMFormer's channels for this image.

    Returns:
        One (blocks, channels) a stage, 0 to 1; nothing where there is no gate.
    """
    stages: dict[int, list[Tensor]] = {}
    for module, (features, *_) in calls_of(backbone, DynamicMultiLevelAttention, x):
        if module.gate is not None:
            with torch.no_grad():
                gate = module.gate(features)[0].flatten()
            stages.setdefault(len(gate), []).append(gate)
    return [torch.stack(blocks).numpy() for blocks in stages.values()]


def channel_attentions(backbone: nn.Module, x: Tensor) -> list[np.ndarray]:
    """How XFormer's channels attend to each other, in the last encoder layer of each stage.

    Returns:
        One (d, d) a stage: the first head's map, the mean over the groups of a 2x2 patch.
    """
    last = {}
    for module, (tokens, *_) in calls_of(backbone, CrossCovarianceAttention, x):
        last[tokens.shape[-1]] = (module, tokens)
    maps = []
    for module, tokens in last.values():
        with torch.no_grad():
            q, k, _ = module.qkv(tokens).chunk(3, dim=-1)
            d = q.shape[-1] // module.num_heads
            q, k = (unit_length(part, dim=-2)[..., :d].transpose(-1, -2) for part in (q, k))
            weights = (module.temperature[0] * (q @ k.transpose(-1, -2))).softmax(dim=-1)
            maps.append(weights.flatten(0, -3).mean(dim=0).numpy())
    return maps


def shortcut_maps(backbone: nn.Module, x: Tensor, count: int = 4) -> list[np.ndarray]:
    """How much the depth-wise shortcuts add to each token, over the length of the token.

    Returns:
        One (h, w) for each of ``count`` shortcuts, evenly spread from the first to the last.
    """
    calls = calls_of(backbone, DepthwiseShortcut, x)
    chosen = np.linspace(0, len(calls) - 1, min(count, len(calls))).round().astype(int)
    maps = []
    for module, (tokens, size, *rest) in (calls[i] for i in chosen):
        with torch.no_grad():
            added = module(tokens, size, *rest)
        skip = rest[0] if rest else 0
        ratio = added[0, skip:].norm(dim=-1) / tokens[0, skip:].norm(dim=-1).clamp_min(1e-12)
        maps.append(ratio.unflatten(0, size).numpy())
    return maps


@contextmanager
def _last_map_of(backbone: nn.Module) -> Iterator[nn.Module]:
    """A layer that the last output of a backbone goes through, for a library that wants layers."""
    layer = nn.Identity()
    hook = backbone.register_forward_hook(
        lambda module, args, outputs: (*outputs[:-1], layer(outputs[-1]))
    )
    try:
        yield layer
    finally:
        hook.remove()


class _Scores(nn.Module):
    """One tensor of scores, which is what Grad-CAM takes the gradient of."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.named = NamedOutputs(model)

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.named(x)
        if "logits" in outputs:
            return outputs["logits"]
        model = self.named.model
        if isinstance(model, BACKBONES):
            return list(outputs.values())[-1].mean(dim=(2, 3))
        if "prediction_0" in outputs:  # YOLO: 4 numbers of a box, whether there is one, and classes
            step = model.bbox_head.num_attrib
            maps = [y[:, 4::step] for y in outputs.values()]
        else:
            maps = [y for name, y in outputs.items() if name.startswith("score")]
        return torch.cat([y.flatten(1) for y in maps], dim=1)


def grad_cam(model: nn.Module, backbone: nn.Module, x: Tensor) -> tuple[np.ndarray, int]:
    """Grad-CAM (https://arxiv.org/abs/1610.02391) at the last map, by the library pytorch-grad-cam.

    For the best class of a classifier; for the most frequent of a segmentor, over its pixels; for
    the best box of a detector's first stage; for the strongest channel of a backbone alone.

    Args:
        x: as :class:`mmhybrid.deploy.onnx_outputs.NamedOutputs` takes it.

    Returns:
        (H, W), 0 to 1, and which class, box or channel it was.
    """
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    scores = _Scores(model)
    with torch.no_grad():
        found = scores(x)[0]
    if found.ndim == 3:
        labels = found.argmax(dim=0)
        chosen = int(labels.flatten().bincount().argmax())
        mask = labels == chosen

        def target(output: Tensor) -> Tensor:
            return (output[chosen] * mask).sum()

    else:
        chosen = int(found.argmax())
        target = ClassifierOutputTarget(chosen)
    with _last_map_of(backbone) as layer:
        cam = GradCAM(model=scores, target_layers=[layer])(input_tensor=x, targets=[target])
    return cam[0], chosen
