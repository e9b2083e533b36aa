"""TransXNet's published formula, written down plainly: the yardstick for exactness and for speed.

Independent of the layers: it takes the parameters of a :class:`mmhybrid.backbones.TransXNet` by
name and computes what the paper says, as the published code does: the table of relative positions
is resized in every block, and the matrix of scores is made.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmhybrid.backbones.transxnet import TransXNet


def plain_transxnet(model: TransXNet, x: Tensor) -> tuple[Tensor, ...]:
    """What ``model(x)`` returns, by the published formula.

    In training, batch normalisations use the statistics of the batch and leave the running ones
    alone; drop path is left out.
    """
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())

    def conv(x: Tensor, name: str, **options: int) -> Tensor:
        return F.conv2d(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"), **options)

    def depthwise(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = tensors[f"{name}.weight"].shape[-1]
        return conv(x, name, stride=stride, padding=kernel // 2, groups=x.shape[1])

    def batch_norm(x: Tensor, name: str) -> Tensor:
        affine = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        if model.training:
            return F.batch_norm(x, None, None, *affine, training=True)
        running = tensors[f"{name}.running_mean"], tensors[f"{name}.running_var"]
        return F.batch_norm(x, *running, *affine)

    def group_norm(x: Tensor, name: str) -> Tensor:
        return F.group_norm(x, 1, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def downsample(x: Tensor, name: str, stride: int, padding: int) -> Tensor:
        x = conv(x, f"{name}.proj.conv", stride=stride, padding=padding)
        return batch_norm(x, f"{name}.proj.bn")

    def dynamic_conv(x: Tensor, name: str) -> Tensor:
        bank, bias_bank = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        groups, channels, size, _ = bank.shape
        batch = x.shape[0]

        def gate(pooled: Tensor) -> Tensor:
            hidden = F.gelu(batch_norm(conv(pooled, f"{name}.proj.0.conv"), f"{name}.proj.0.bn"))
            mixed = conv(hidden, f"{name}.proj.1")
            return mixed.view(batch, groups, channels, *mixed.shape[2:]).softmax(dim=1)

        kernel = (gate(F.adaptive_avg_pool2d(x, size)) * bank).sum(dim=1)
        bias = (gate(x.mean(dim=(2, 3), keepdim=True))[..., 0, 0] * bias_bank).sum(dim=1)
        out = F.conv2d(
            x.reshape(1, batch * channels, *x.shape[2:]),
            kernel.reshape(batch * channels, 1, size, size),
            bias.flatten(),
            padding=size // 2,
            groups=batch * channels,
        )
        return out.view(x.shape)

    def attention(x: Tensor, name: str, table: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        heads = table.shape[1]
        reduced = x
        if f"{name}.sr.0.conv.weight" in tensors:
            ratio = tensors[f"{name}.sr.0.conv.weight"].shape[-1] - 3
            reduced = depthwise(x, f"{name}.sr.0.conv", stride=ratio)
            reduced = F.gelu(batch_norm(reduced, f"{name}.sr.0.bn"))
            reduced = batch_norm(depthwise(reduced, f"{name}.sr.1.conv"), f"{name}.sr.1.bn")
        reduced = reduced + depthwise(reduced, f"{name}.local_conv")
        q = conv(x, f"{name}.q").view(batch, heads, channels // heads, -1)
        k, v = conv(reduced, f"{name}.kv").view(batch, 2, heads, channels // heads, -1).unbind(1)
        scores = q.transpose(-1, -2) @ k * (channels // heads) ** -0.5
        if table.shape[-2:] != scores.shape[-2:]:
            table = F.interpolate(table, size=scores.shape[-2:], mode="bicubic")
        weights = (scores + table).softmax(dim=-1)
        return (weights @ v.transpose(-1, -2)).transpose(-1, -2).reshape(x.shape)

    def token_mixer(x: Tensor, name: str, table: Tensor) -> Tensor:
        local, distant = x.chunk(2, dim=1)
        local = dynamic_conv(local, f"{name}.local_unit")
        x = torch.cat([local, attention(distant, f"{name}.global_unit", table)], dim=1)
        out = batch_norm(F.gelu(depthwise(x, f"{name}.proj.0")), f"{name}.proj.2")
        out = batch_norm(F.gelu(conv(out, f"{name}.proj.3")), f"{name}.proj.5")
        return x + batch_norm(conv(out, f"{name}.proj.6"), f"{name}.proj.7")

    def feed_forward(x: Tensor, name: str) -> Tensor:
        x = batch_norm(F.gelu(conv(x, f"{name}.fc1.0")), f"{name}.fc1.2")
        branches = [depthwise(y, f"{name}.dwconv.proj.{i}") for i, y in enumerate(x.chunk(4, 1))]
        x = batch_norm(F.gelu(x + torch.cat(branches, dim=1)), f"{name}.norm")
        return batch_norm(conv(x, f"{name}.fc2.0"), f"{name}.fc2.1")

    outputs = []
    x = downsample(x, "patch_embed", stride=4, padding=3)
    for stage, depth in enumerate(model.depths[: model.out_indices[-1] + 1]):
        if stage > 0:
            x = downsample(x, f"network.{2 * stage - 1}", stride=2, padding=1)
        table = tensors[f"relative_pos_enc.{stage}"]
        for block in range(depth):
            name = f"network.{2 * stage}.{block}"
            x = x + depthwise(x, f"{name}.pos_embed")
            mixed = token_mixer(group_norm(x, f"{name}.norm1"), f"{name}.token_mixer", table)
            x = x + depthwise(mixed, f"{name}.layer_scale_1")
            hidden = feed_forward(group_norm(x, f"{name}.norm2"), f"{name}.mlp")
            x = x + depthwise(hidden, f"{name}.layer_scale_2")
        if stage in model.out_indices:
            outputs.append(group_norm(x, f"norm{2 * stage}"))
    return tuple(outputs)
