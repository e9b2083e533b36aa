"""Layer-wise learning rate decay: the nearer to the input, the smaller the learning rate.

mmdet's and mmsegmentation's constructors know ConvNeXt alone, and mmpretrain's classifiers alone.
The one here asks the backbone, wherever it is in the model.
"""

from typing import Any

from mmengine.logging import MMLogger
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn
from torch.optim import Optimizer

from mmhybrid.backbones.replace_backbone import without_info
from mmhybrid.errors import ArgumentError


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerwiseDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Multiplies each learning rate by ``layer_decay_rate ** (layers between it and the head)``.

    Parameters outside of parts with ``get_layer_depth(name, prefix)``, which the backbones of
    mmhybrid and most of mmpretrain's have, keep the learning rate of the optimizer. Those with
    equal settings are put into one group. ``tools/print_groups.py CONFIG`` prints all.

    Args:
        optim_wrapper_cfg (dict): As of MMEngine's constructor; its optimizer needs an ``lr``.
        paramwise_cfg (dict): ``layer_decay_rate``, above 0 and at most 1, and all that MMEngine's
            constructor knows; the ``lr_mult`` of ``custom_keys`` multiplies the decayed rate.

    Example:
        >>> from mmengine.optim import build_optim_wrapper
        >>> from torch import nn
        >>> from mmhybrid.backbones import TransXNet
        >>> model = nn.ModuleDict(dict(backbone=TransXNet('tiny'), head=nn.Linear(448, 9)))
        >>> optim_wrapper = build_optim_wrapper(model, dict(
        ...     optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
        ...     constructor='mmhybrid.LayerwiseDecayOptimWrapperConstructor',
        ...     paramwise_cfg=dict(layer_decay_rate=0.5)))
        >>> rates = sorted(group['lr'] for group in optim_wrapper.optimizer.param_groups)
        >>> rates[-1], rates[-2]  # the head, and the last block
        (0.0001, 5e-05)
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        rate = self.paramwise_cfg.get("layer_decay_rate")
        if not isinstance(rate, int | float) or not 0 < rate <= 1:
            raise ArgumentError(
                "layer-wise decay needs paramwise_cfg=dict(layer_decay_rate=0.75, ...), above 0 "
                f"and at most 1, not {rate!r}. (mmdet and mmsegmentation call it decay_rate; their "
                "num_layers and decay_type are not needed here.)"
            )
        if self.base_lr is None:
            raise ArgumentError("layer-wise decay needs the learning rate: optimizer.lr")

    def add_params(
        self, params: list[dict[str, Any]], module: nn.Module, prefix: str = "", **options: Any
    ) -> None:
        """MMEngine calls it for the whole model, and it calls itself for each part."""
        if prefix:
            super().add_params(params, module, prefix, **options)
            return
        with without_info():  # MMEngine's line for each learning rate would not hold the decay
            super().add_params(params, module, **options)
        rate = self.paramwise_cfg["layer_decay_rate"]
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        depths, head = layer_depths(module)
        groups: dict[str, dict[str, Any]] = {}
        for one in params:
            (parameter,) = one.pop("params")
            depth = depths.get(names[id(parameter)], head)
            one["layer_depth"] = depth
            one["lr"] = one.get("lr", self.base_lr) * rate ** (head - depth)
            group = groups.setdefault(repr(sorted(one.items())), one | {"params": []})
            group["params"].append(parameter)
        params[:] = groups.values()
        rates = [group["lr"] for group in params]
        MMLogger.get_current_instance().info(
            f"Layer-wise decay of {rate} over {head} layers: {len(params)} parameter groups with "
            f"learning rates of {min(rates):.3g} to {max(rates):.3g}. `python -m mmhybrid "
            "print_groups CONFIG` shows them."
        )


def layer_depths(model: nn.Module) -> tuple[dict[str, int], int]:
    """Depths of the parameters of parts with ``get_layer_depth``, by name; and that of all others.

    Example:
        >>> from torch import nn
        >>> from mmhybrid.backbones import TransXNet
        >>> model = nn.ModuleDict(dict(backbone=TransXNet('tiny'), head=nn.Linear(448, 9)))
        >>> depths, head = layer_depths(model)
        >>> depths['backbone.patch_embed.proj.conv.weight'], head
        (0, 19)
    """
    depths: dict[str, int] = {}
    head = 0
    for prefix, part in model.named_modules():
        # A classifier of mmpretrain has the method too, but only hands on to its backbone.
        if not prefix or not hasattr(part, "get_layer_depth"):
            continue
        for name, _ in part.named_parameters(prefix=prefix):
            if name not in depths:  # a backbone around a backbone comes first, and has the say
                depths[name], number = part.get_layer_depth(name, f"{prefix}.")
                head = max(head, number - 1)
    if not depths:
        backbone = type(getattr(model, "backbone", model)).__name__
        raise ArgumentError(
            f"layer-wise decay asks the backbone for the depth of each parameter, and {backbone} "
            "has no get_layer_depth(param_name, prefix). The backbones of mmhybrid have it, and "
            "of mmpretrain's for example mmpretrain.ConvNeXt and mmpretrain.SwinTransformer"
        )
    return depths, head


def parameter_groups(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """One line for each parameter of a model: what an optimizer does with it.

    Depth is ``-`` where the constructor of the optimizer knows none.

    Example:
        >>> from torch import nn, optim
        >>> model = nn.Linear(2, 3)
        >>> print(*parameter_groups(model, optim.SGD([model.weight], lr=0.1)), sep='\\n')
         group  depth         lr weight decay     values name
             0      -        0.1            0          6 weight
        frozen      -          -            -          3 bias
    """
    groups = {
        id(parameter): (index, group)
        for index, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
    }
    columns = "{:>6} {:>6} {:>10} {:>12} {:>10} {}".format
    lines = [columns("group", "depth", "lr", "weight decay", "values", "name")]
    for name, parameter in model.named_parameters():
        index, group = groups.get(id(parameter), ("frozen", {}))
        lr, decay = (f"{group[key]:.4g}" if group else "-" for key in ("lr", "weight_decay"))
        depth = group.get("layer_depth", "-")
        lines.append(columns(index, depth, lr, decay, f"{parameter.numel():,}", name))
    return lines
