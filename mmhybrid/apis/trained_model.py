"""From what a command line names to a model with its weights, ready for use."""

from __future__ import annotations

from typing import Any

from mmengine.model import revert_sync_batchnorm
from torch import nn

from mmhybrid.apis.models import make_model
from mmhybrid.apis.random_init import random_init
from mmhybrid.errors import UserError
from mmhybrid.weights import CheckpointError, load_checkpoint
from mmhybrid.weights.loading import backbones_of


def trained_model(
    name: str, checkpoint: str | None, options: dict[str, Any] | None = None
) -> nn.Module:
    """Makes a model and loads its weights, in evaluation mode.

    Args:
        name: a config or a class, see :func:`mmhybrid.apis.models.make_model`.
        checkpoint: file or address of the weights. None fills the model at random, not as training
            starts, where LayerScale hides what most layers do.
        options: of ``--cfg-options``, for a config.

    Raises:
        UserError: no such config, class or checkpoint, or the weights do not fit.
    """
    model = revert_sync_batchnorm(make_model(name, options))
    if checkpoint is None:
        random_init(model)
    else:
        try:
            load_checkpoint(model, checkpoint)
        except (CheckpointError, OSError) as error:
            raise UserError(str(error)) from error
    model.eval()
    return model


def first_backbone(model: nn.Module, name: str) -> nn.Module:
    """The first backbone of this package in a model, or the model itself where it is one.

    Args:
        model: a backbone, or a model that holds one.
        name: what the command line calls the model, for the error.

    Raises:
        UserError: there is none.
    """
    for backbone in backbones_of(model).values():
        return backbone
    raise UserError(f"{name} holds no backbone of mmhybrid")
