"""Stochastic depth."""

from torch import Tensor, nn

from mmhybrid.errors import ArgumentError


class DropPath(nn.Module):
    """Drops a residual branch for whole samples, and scales the rest so that the mean stays.

    Deep Networks with Stochastic Depth, https://arxiv.org/abs/1603.09382.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ArgumentError(f"a drop path rate lies in [0, 1), not {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0 or not self.training:
            return x
        keep = 1 - self.rate
        shape = (x.shape[0],) + (1,) * (x.ndim - 1)
        return x * x.new_empty(shape).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3g}"


def drop_path_rates(rate: float, depths: tuple[int, ...]) -> list[list[float]]:
    """One rate a block, rising linearly from 0 to ``rate`` over all blocks, a list a stage."""
    total = sum(depths)
    rates = iter([rate * i / max(total - 1, 1) for i in range(total)])
    return [[next(rates) for _ in range(depth)] for depth in depths]
