"""What a training starts from: ``--weights NAME|FILE|none|auto``."""

from copy import deepcopy
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from mmhybrid.engine.runner.config_parts import parts_of
from mmhybrid.engine.runner.run_config import existing_file, without_pretrained
from mmhybrid.weights.catalogue import SCHEME, get_weights, list_weights

# Options of an entry that say which model it is, and not how that differs from ours.
OF_THE_CONFIG = ("type", "arch", "out_indices")


def with_weights(cfg: Config, weights: str, name: str) -> Config:
    """A config that starts from these weights; says from which, and why.

    Args:
        cfg (Config): It stays as it is.
        weights (str): ``'auto'``: those of the catalogue for this config, or else what the config
            itself names, or else random ones. ``'none'``: random ones. Otherwise a name of the
            catalogue, which goes to the backbone unless it is of a whole model, or the file or
            address of a model or a backbone.
        name (str): Of the config, without folder and ``.py``.

    Raises:
        UserError, CheckpointError: There is no such file and no such name.
    """
    if weights == "none":
        cfg = without_pretrained(cfg)
        cfg.load_from = None
        _say("from random weights, as --weights none says")
        return cfg
    cfg = deepcopy(cfg)
    if weights == "auto":
        entry = next((one for one in list_weights() if one.config == name), None)
        if cfg.get("load_from"):
            _say(f"from {cfg.load_from}, which the config names as load_from")
        elif entry:
            cfg.load_from = SCHEME + entry.name
            _say(f"from {cfg.load_from}, trained on {entry.trained_on}, with this config")
        elif checkpoint := own_checkpoint(cfg):
            _say(f"from {checkpoint}, which the config names for its backbone")
        else:
            _say("from random weights: neither the catalogue nor the config has any")
        return cfg
    if Path(weights).is_file() or ("://" in weights and not weights.startswith(SCHEME)):
        cfg.load_from = weights
        _say(f"from {weights}")
        return cfg
    if weights.endswith((".pth", ".pt", ".tar", ".safetensors")):
        existing_file(weights, "file of weights")
    entry = get_weights(weights)
    address = SCHEME + entry.name
    _say(f"from {address}, trained on {entry.trained_on}")
    if entry.config:
        cfg.load_from = address
        return cfg
    cfg = without_pretrained(cfg)
    cfg.load_from = None
    options = {key: one for key, one in entry.options.items() if key not in OF_THE_CONFIG}
    cfg.model.backbone.update(options)
    cfg.model.backbone.init_cfg = ConfigDict(type="Pretrained", checkpoint=address)
    if options:
        _say(f"the backbone is built with {options}, as these weights need it")
    return cfg


def own_checkpoint(cfg: Config) -> str:
    """What the config itself names: an address, a file, or ''."""
    backbone = cfg.model.get("backbone") or {}
    inits = [
        part.node.get("checkpoint")
        for part in parts_of(cfg)
        if part.path[:1] == ("model",) and part.key == "init_cfg"
    ]
    named = [cfg.model.get("pretrained"), *inits]
    if backbone.get("pretrained"):
        named.append(backbone["pretrained"] if backbone["pretrained"] is not True else "timm's hub")
    return str(next(filter(None, named), ""))


def _say(text: str) -> None:
    print_log(f"weights: {text}", logger="current")
