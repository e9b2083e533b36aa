"""What a report says: where the run comes from, its curves, its evaluation, and how to go on."""

import shlex
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmengine.runner import Runner

from mmhybrid.engine.hooks.report_hook import ReportHook
from mmhybrid.engine.runner.checkpoint_config import config_of
from mmhybrid.engine.runner.report import headlines, read_log
from mmhybrid.engine.runner.report_figures import NOTHING, figures_of
from mmhybrid.engine.runner.results import made
from mmhybrid.errors import UserError
from mmhybrid.version import __version__

PACKAGES = ("mmengine", "mmcv", "mmdet", "mmseg", "mmpretrain", "torchvision", "numpy")
DISTRIBUTIONS = {"mmseg": "mmsegmentation", "mmcv": "mmcv-lite"}


def report_content(runner: Runner, hook: ReportHook, config: str) -> dict[str, Any]:
    """The content of a report on a training or an evaluation, of plain data but for the images.

    Args:
        runner: After ``train()`` or ``test()``.
        hook: The one that was registered with it.
        config: Config file, as the user named it.
    """
    evaluation, problems = hook.evaluation, [hook.problem] if hook.problem else []
    training = getattr(runner.cfg, "train_cfg", None) and runner.iter > 0
    loop = getattr(hook, "loop", None)
    figures = NOTHING
    if evaluation:
        try:
            figures = figures_of(evaluation, loop.dataloader.dataset)
        except Exception as error:  # whatever a stranger's data set brings: the rest is shown
            problems.append(f"{type(error).__name__}: {error}")
            print_log(f"The report will lack figures: {error!r}", logger="current", level=30)
    checkpoint = checkpoint_of(runner, hook)
    log = training_log(runner) if training else dict(losses=[], metrics=[], unit="iteration")
    # A run that ended before it was resumed is not evaluated again.
    last = (log["metrics"] or [{}])[-1]
    last = {key: value for key, value in last.items() if key not in ("data_time", "time", "step")}
    metrics = evaluation.metrics if evaluation else last
    return dict(
        title=Path(config).stem,
        problems=problems,
        weights=_evaluated(runner, hook),
        headlines=headlines(metrics),
        metrics={k: v for k, v in metrics.items() if isinstance(v, int | float)},
        images=evaluation.images if evaluation else 0,
        images_per_second=evaluation.images / evaluation.seconds
        if evaluation and evaluation.seconds
        else None,
        log=log,
        about=about(runner, config, loop),
        commands=commands(runner, config, checkpoint, bool(training)),
        palette=palette_of(getattr(getattr(loop, "dataloader", None), "dataset", None)),
        **figures,
    )


def palette_of(dataset: Any) -> list[tuple[int, int, int]]:
    """The colours of a data set's classes, or else 20 that differ."""
    meta = getattr(dataset, "metainfo", None) or {}
    palette = meta.get("palette")
    if isinstance(palette, list | tuple) and len(palette) >= len(meta.get("classes") or [0]):
        return [tuple(map(int, one)) for one in palette]
    from matplotlib import colormaps

    return [tuple(round(255 * one) for one in colour) for colour in colormaps["tab20"].colors]


def checkpoint_of(runner: Runner, hook: ReportHook) -> str:
    """The checkpoint that was evaluated, or else the last one."""
    if hook.evaluation and hook.evaluation.best:
        return hook.evaluation.best
    last = runner.message_hub.runtime_info.get("last_ckpt")
    return str(last or runner._load_from or "CHECKPOINT")


def _evaluated(runner: Runner, hook: ReportHook) -> str:
    if hook.evaluation is None:
        return ""
    if hook.evaluation.best:
        what = f"the best checkpoint, {Path(hook.evaluation.best).name}, "
        return what + f"of iteration {hook.evaluation.iteration}"
    if hook.evaluation.iteration:
        return f"the weights after iteration {hook.evaluation.iteration}"
    return str(runner._load_from)


def about(runner: Runner, config: str, loop: Any) -> dict[str, str]:
    """Where a run comes from, for a table."""
    parameter = next(runner.model.parameters())
    facts = made(str(parameter.device))
    rows = {"Command": facts["command"], "Config": config}
    training = getattr(runner, "_train_loop", None)  # a dict, where it was not built
    for name, one in (("Training", training), ("Evaluation", loop)):
        dataset = getattr(getattr(one, "dataloader", None), "dataset", None)
        if dataset is not None and hasattr(dataset, "__len__"):
            rows[f"{name} data"] = _data(dataset)
    backbone = runner.cfg.get("model", {}).get("backbone") or {}
    start = runner._load_from or (backbone.get("init_cfg") or {}).get("checkpoint")
    rows["Started from"] = str(start or "random weights")
    rows |= {"Seed": str(runner.seed), "Code": facts["commit"], "Device": facts["device"]}
    versions = dict(mmhybrid=__version__, torch=facts["torch"])
    for name in PACKAGES:
        found = _version(name) or _version(DISTRIBUTIONS.get(name, ""))
        versions |= {name: found} if found else {}
    rows["Versions"] = ", ".join(f"{name} {one}" for name, one in versions.items())
    return rows | {"Date": facts["date"]}


def _version(name: str) -> str:
    try:
        return version(name) if name else ""
    except PackageNotFoundError:
        return ""


def _data(dataset: Any) -> str:
    inner = dataset
    while not getattr(inner, "data_root", None) and hasattr(inner, "dataset"):
        inner = inner.dataset
    parts = [getattr(inner, name, "") for name in ("data_root", "ann_file")]
    named = ", ".join(str(one) for one in parts if one)
    return f"{len(dataset)} images, {type(inner).__name__}" + (f": {named}" if named else "")


def training_log(runner: Runner) -> dict[str, Any]:
    """Lines of losses and of metrics; of a run that was resumed, also those before.

    ``unit`` is what the steps of metrics count, ``"iteration"`` or ``"epoch"``.
    """
    own = Path(runner.log_dir) / "vis_data" / "scalars.json"
    files = sorted(Path(runner.work_dir).glob("*/vis_data/scalars.json"))
    losses: list[dict] = []
    metrics: list[dict] = []
    for file in files if runner._resume else [own]:
        new = read_log(file)
        for kept, lines in zip((losses, metrics), new, strict=True):
            if lines:
                kept[:] = [one for one in kept if one["step"] < lines[0]["step"]] + lines
    counted = any("epoch" in one for one in losses) and bool(metrics)
    by_epoch = counted and metrics[-1]["step"] <= runner.epoch < runner.iter
    return dict(losses=losses, metrics=metrics, unit="epoch" if by_epoch else "iteration")


def commands(runner: Runner, config: str, checkpoint: str, training: bool) -> list[tuple[str, str]]:
    """What a user does next, and the command for it."""
    command = made()["command"]
    tools = str(Path(shlex.split(command)[1]).parent)
    try:
        config_of(checkpoint)
        named = [_relative(checkpoint)]
    except UserError:  # it does not hold its config
        # The config that MMEngine wrote has the sizes and the data of the run, and options applied.
        written = Path(runner.work_dir) / Path(runner.cfg.filename or config).name
        config = str(written) if written.is_file() else config
        named = [_relative(config), _relative(checkpoint)]
    tool: Callable[..., str] = lambda *words: shlex.join(["python", *words])  # noqa: E731
    steps = [("Predict on images", tool(f"{tools}/predict.py", *named, "IMAGES"))]
    if training:
        resumed = command if "--resume" in command else f"{command} --resume"
        steps.append(("Continue this run", resumed))
    folder = str(Path(named[-1]).with_suffix(""))
    steps.append(("Export to ONNX", tool(f"{tools}/export.py", *named, "--out", folder)))
    report = tool(f"{tools}/test.py", *named, "--report", "report")
    return [*steps, ("Report on a checkpoint", report)]


def _relative(path: str) -> str:
    """As typed from here, where the file is below the current folder."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path
