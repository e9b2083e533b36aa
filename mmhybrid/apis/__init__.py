"""Python entry points: a model of a config with its weights, and predictions on files."""

from mmhybrid.apis.hub import from_pretrained, publish, upload
from mmhybrid.apis.inferencer import Outcome, make_inferencer, predict
from mmhybrid.apis.models import init_model, make_model
from mmhybrid.apis.random_init import random_init

__all__ = [
    "Outcome",
    "from_pretrained",
    "init_model",
    "make_inferencer",
    "make_model",
    "predict",
    "publish",
    "random_init",
    "upload",
]
