"""MMEngine's strategies (``runner_type="FlexibleRunner"``): what fits and what they cannot do."""

import importlib.util
from copy import deepcopy

import torch
from mmengine.config import Config, ConfigDict

from mmhybrid.errors import UserError
from mmhybrid.registry import type_name

# Both connect the processes of a run themselves, and need a package and GPUs.
PACKAGES = {"DeepSpeedStrategy": "deepspeed", "ColossalAIStrategy": "colossalai"}
INSTEAD = "leave out runner_type and strategy, which trains with DistributedDataParallel"


def with_strategy(cfg: Config) -> Config:
    """Fit the strategy of a config to this machine; without one nothing changes.

    FSDP saves whole checkpoints unless the config says otherwise: a folder of each process's shards
    could not be resumed, tested or exported by the tools.

    Raises:
        UserError: The strategy cannot run here, or not with all that the config asks for.
    """
    name = type_name(cfg.get("strategy") or {})
    if not name and "runner_type" not in cfg:
        return cfg
    if "runner_type" not in cfg:
        raise UserError(f"strategy={name} needs runner_type='FlexibleRunner' in the config")
    gpus = torch.cuda.is_available()
    if package := PACKAGES.get(name):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"{name} needs {package}, which is not installed: {INSTEAD}")
        if not gpus:
            raise UserError(f"{name} needs GPUs, and PyTorch sees none: {INSTEAD}")
        return cfg
    cfg = deepcopy(cfg)
    if not name:  # what FlexibleRunner takes by itself
        name = "SingleDeviceStrategy" if cfg.launcher == "none" else "DDPStrategy"
        cfg.strategy = ConfigDict(type=name)
    cfg.setdefault("env_cfg", ConfigDict())  # without which FlexibleRunner fails
    if name == "FSDPStrategy":
        _check_fsdp(cfg)
        cfg.strategy.setdefault("state_dict_cfg", "full")
    on_cpus = dict(
        FSDPStrategy=dict(type="MMFullyShardedDataParallel", device_id="cpu"),
        DDPStrategy=dict(
            type="MMDistributedDataParallel", device_ids=None, broadcast_buffers=False
        ),
    )
    if not gpus and name in on_cpus:
        given = cfg.strategy.get("model_wrapper") or {}
        cfg.strategy.model_wrapper = on_cpus[name] | given
    return cfg


def _check_fsdp(cfg: Config) -> None:
    if cfg.launcher == "none":
        raise UserError("FSDPStrategy needs several processes: tools/dist_train.sh CONFIG GPUS")
    lacking = []
    if any(type_name(hook).endswith("EMAHook") for hook in cfg.get("custom_hooks") or []):
        lacking.append("average weights (EMAHook in custom_hooks)")
    if (cfg.get("optim_wrapper") or {}).get("accumulative_counts", 1) > 1:
        lacking.append("save gradients that are being accumulated (accumulative_counts)")
    if lacking:
        raise UserError(
            f"FSDPStrategy cannot {' and '.join(lacking)}: leave that out, or {INSTEAD}"
        )
