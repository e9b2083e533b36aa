"""Batch normalisation that also trains on a single value per channel, and how a config names it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmhybrid.errors import ArgumentError

SMALLEST_BY_PARTS = 2**16  # values of an image


class _SingleValueNorm:
    """Normalises one value per channel with the running statistics.

    PyTorch refuses to train on one value, whose variance is zero. This happens wherever a global
    pool meets a batch of one image. Synchronised across processes there are more.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.numel() == x.shape[1] and not self._is_synchronised():
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        return super().forward(x)

    def _is_synchronised(self) -> bool:
        return (
            isinstance(self, nn.SyncBatchNorm)
            and torch.distributed.is_available()
            and torch.distributed.is_initialized()
            and torch.distributed.get_world_size(self.process_group) > 1
        )


class BatchNorm2d(_SingleValueNorm, nn.BatchNorm2d):
    """:class:`torch.nn.BatchNorm2d`, for a batch of one image too."""


class SyncBatchNorm(_SingleValueNorm, nn.SyncBatchNorm):
    """:class:`torch.nn.SyncBatchNorm`, for a batch of one image in one process too."""


class BatchNormXd(_SingleValueNorm, _BatchNorm):
    """What MMEngine makes of a ``SyncBatchNorm`` in one process; of maps of any dimensions."""

    def _check_input_dim(self, x: Tensor) -> None:
        pass


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of (B, C, H, W), at each position."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class GroupNorm(nn.GroupNorm):
    """:class:`torch.nn.GroupNorm`, fast for few large images on a GPU too.

    There PyTorch's kernel takes the statistics of a group by one block of threads: with one group
    that was a quarter of a training step of TransXNet-T at 800x1344 (batch of 2, an H100).
    """

    def forward(self, x: Tensor) -> Tensor:
        if not _is_faster_by_parts(x, self.num_groups):
            return super().forward(x)
        # As PyTorch's own: half precision is computed in float32, and stays so under autocast.
        dtype = torch.float32 if torch.is_autocast_enabled("cuda") else x.dtype
        if x.dtype != torch.float64:
            x = x.float()
        variance, mean = torch.var_mean(x, (1, 2, 3), correction=0, keepdim=True)
        scale = torch.rsqrt(variance + self.eps)
        if not self.affine:
            return ((x - mean) * scale).to(dtype)
        scale = scale * self.weight.view(-1, 1, 1)
        return torch.addcmul(self.bias.view(-1, 1, 1) - mean * scale, x, scale).to(dtype)


def _is_faster_by_parts(x: Tensor, num_groups: int) -> bool:
    """Whether one group an image, of so few and large images that they leave a GPU idle."""
    return (
        x.is_cuda
        and num_groups == 1
        and x.dim() == 4
        and len(x) <= 32
        and x[:1].numel() >= SMALLEST_BY_PARTS
        and not torch.compiler.is_compiling()
    )


def build_norm(norm_cfg: dict[str, Any], channels: int) -> nn.Module:
    """Builds the normalisation that a config asks for.

    ``type`` is ``'BN'``, ``'SyncBN'``, ``'GN'`` (with ``num_groups``), ``'LN2d'`` or the name of a
    class registered in ``MODELS`` that takes the number of channels. ``requires_grad=False``
    freezes the affine parameters. The rest goes to the constructor.
    """
    if not isinstance(norm_cfg, Mapping) or "type" not in norm_cfg:
        raise ArgumentError(f"norm_cfg={norm_cfg!r}: give a dict with a type: dict(type='BN')")
    cfg = dict(norm_cfg)
    name = cfg.pop("type")
    requires_grad = cfg.pop("requires_grad", True)
    known = {
        "BN": BatchNorm2d,
        "BN2d": BatchNorm2d,
        "SyncBN": SyncBatchNorm,
        "LN2d": LayerNorm2d,
        "GN": lambda channels, **options: GroupNorm(num_channels=channels, **options),
    }
    norm_class = known.get(name) or MODELS.get(name)
    if norm_class is None:
        raise ArgumentError(
            f"norm_cfg asks for type={name!r}; known are {sorted(known)} and what is registered "
            "in MODELS (import mmcv.cnn for more)"
        )
    norm = norm_class(channels, **cfg)
    return norm.requires_grad_(requires_grad)


def keep_statistics(module: nn.Module) -> None:
    """Lets batch normalisations keep their running statistics while the rest trains."""
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            norm.eval()


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Inside, batch normalisations use the batch but leave their running statistics alone.

    The second pass of gradient checkpointing computes what the first one did and changes nothing.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    settings = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, num_batches_tracked) in zip(norms, settings, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, num_batches_tracked
