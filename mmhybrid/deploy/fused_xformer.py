"""XFormer's mobile block without maps that only differ by one operation."""

from torch import Tensor, nn

from mmhybrid.deploy.folding import fuses
from mmhybrid.layers.inverted_residual import InvertedResidual


@fuses(InvertedResidual)
class FusedInvertedResidual(InvertedResidual):
    """An :class:`InvertedResidual` for inference: the same operations, written over their inputs.

    Its hidden maps are the largest of the network; to take memory for a new one costs more than to
    compute it.
    """

    def __init__(self, block: InvertedResidual) -> None:
        nn.Module.__init__(self)
        self.has_residual = block.has_residual
        self.expand, self.dwconv = block.expand, block.dwconv
        self.gate, self.reduce = block.gate, block.reduce

    def forward(self, x: Tensor) -> Tensor:
        out = self.dwconv(self.expand(x))
        if self.gate is not None:
            out.mul_(self.gate(out))
        out = self.reduce(out)
        return out.add_(x) if self.has_residual else out
