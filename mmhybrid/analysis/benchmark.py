"""Models side by side in one run: size, operations, time and memory.

Times depend on the machine and the hour: models take turns and are compared within a round.
"""

import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmhybrid.analysis.counting import FIGURES, count, run_parts
from mmhybrid.analysis.timing import peak_memory, peak_memory_of, seconds_of
from mmhybrid.backbones.base import backbone_classes

Row = dict[str, Any]
Make = Callable[[str], nn.Module]
PHASES = ("forward", "training")
FEWEST_ROUNDS = 3
SHORTEST_SAMPLE = 0.1  # seconds; a quick call is repeated to fill it
# What people would choose for dense prediction instead. The second half is of XFormer-S's size.
PEERS = {
    "Swin-T": "mmdet.SwinTransformer",
    "ConvNeXt-T": "timm.convnext_tiny",
    "PVTv2-B1": "timm.pvt_v2_b1",
    "ResNet-50": "timm.resnet50",
    "MobileViT-S": "timm.mobilevit_s",
    "MobileNetV2 1.4": "timm.mobilenetv2_140",
    "MobileNetV3-L": "timm.mobilenetv3_large_100",
}


@dataclass
class Settings:
    """What all rows of a run share."""

    batch_size: int = 1
    precision: str = "float32"  # or "bfloat16" or "float16", by autocast
    channels_last: bool = False  # of images and weights
    device: str = "cpu"
    repeats: int = 20  # timed rounds
    train: bool = True  # measure forward and backward too, without loss and optimiser
    count: bool = True  # parameters, operations and maps too
    seconds: float | None = None  # no round begins after this time, but for the first three

    def images(self, size: tuple[int, int]) -> Tensor:
        """(batch_size, 3, H, W), random."""
        x = torch.randn(self.batch_size, 3, *size, device=self.device)
        return x.to(memory_format=torch.channels_last) if self.channels_last else x

    def autocast(self) -> AbstractContextManager:
        """Inside, the precision holds."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, getattr(torch, self.precision))


@dataclass
class Contestant:
    """A row in the making, the calls to time, and the seconds of those timed, by phase."""

    row: Row
    calls: dict[str, Callable[[], object]] = field(default_factory=dict)
    samples: dict[str, list[float]] = field(default_factory=dict)


def smallest_models() -> dict[str, str]:
    """The smallest preset of every registered backbone: ``{'XFormer-S': "XFormer('small')"}``."""
    found = {}
    for backbone in backbone_classes():
        if presets := getattr(backbone, "presets", None):
            arch = next(iter(presets))
            size = arch.upper() if arch[-1].isdigit() else arch[0].upper()
            found[f"{backbone.family}-{size}"] = f"{backbone.__name__}({arch!r})"
    return found


def benchmark(
    models: Mapping[str, str],
    sizes: Sequence[tuple[int, int]],
    modes: Sequence[str] = ("eager",),
    settings: Settings | None = None,
    *,
    make: Make,
    fuse: Callable[[nn.Module], nn.Module] | None = None,
    save: Callable[[list[Row]], None] = lambda rows: None,
    log: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Measures every model in every mode at every size; what fails gets a row with the reason.

    ``models`` are what ``make`` takes, by the name to show; ``sizes`` (height, width); ``modes`` of
    ``'eager'``, ``'fused'`` (not trained) and ``'compiled'``. ``make`` and ``fuse``, e.g.
    :func:`mmhybrid.apis.models.make_model` and :func:`mmhybrid.deploy.fuse`, are pickled; a model
    for which ``fuse`` raises ValueError has no such row. ``save`` gets all rows so far after
    each round, ``log`` a line of progress now and then.

    Returns:
        One row a model, mode and size. ``latency`` and ``training`` are median seconds of a call;
        ``..._samples`` all rounds; ``..._spread`` the interquartile range over the median;
        ``..._ratio`` the median of the ratios to the first row of the same size in the same round.
        Memory is in bytes, beyond the weights.
    """
    settings = settings or Settings()
    seconds = math.inf if settings.seconds is None else settings.seconds
    started = time.perf_counter()
    phases = PHASES if settings.train else PHASES[:1]
    to_do = len(sizes) * len(phases)  # which share the time that remains
    finished: list[Row] = []
    for size in sizes:
        contestants = []
        for name, spec in models.items():
            for mode in modes:
                about = dict(model=name, spec=spec, mode=mode, size=list(size))
                one = Contestant(about | dict(batch_size=settings.batch_size))
                if _prepare(one, settings, make, fuse):
                    contestants.append(one)
                    log(", ".join(f"{key}: {value}" for key, value in one.row.items()))
                    save(finished + [one.row for one in contestants])
        for phase in phases:
            began = time.perf_counter()
            share = (started + seconds - began) / to_do
            to_do -= 1
            for turn in range(settings.repeats):
                racing = [one for one in contestants if phase in one.calls]
                expected = (time.perf_counter() - began) * (turn + 1) / max(turn, 1)
                if not racing or (turn >= FEWEST_ROUNDS and expected > share):
                    break
                for one in racing:
                    _sample(one, phase, settings.device)
                _summarise(contestants, phase)
                save(finished + [one.row for one in contestants])
                log(f"{phase}: round {turn + 1} of {settings.repeats}")
        finished += [one.row for one in contestants]
    return finished


def _prepare(one: Contestant, settings: Settings, make: Make, fuse: Any) -> bool:
    """Makes, counts and warms up a model, and measures its memory; False if it lacks the mode."""
    spec, mode, size = one.row["spec"], one.row["mode"], tuple(one.row["size"])
    unfused = make(spec)
    unfused.eval()  # of mmdet's, this returns nothing
    try:
        model = fuse(unfused) if mode == "fused" else unfused
    except ValueError:
        return False
    phases = PHASES if settings.train and mode != "fused" else PHASES[:1]
    on_cpu = torch.device(settings.device).type == "cpu"
    calls: dict[str, Callable[[], object]] = {}
    try:
        if settings.count:
            counts = vars(count(unfused, size))
            one.row |= {key: counts[key] for key in ("parameters", *FIGURES)}
        for phase in phases:
            if on_cpu and mode != "compiled" and os.path.exists("/proc/self/clear_refs"):
                # First, for it happens in another process: where memory runs out, that one ends.
                fuses = fuse if mode == "fused" else None
                call = (make, spec, fuses, phase, size, settings)
                one.row[f"{phase}_memory"] = peak_memory_of(_make_call, *call)
            calls = calls or _calls(model, size, settings, compiled=mode == "compiled")
            calls[phase]()  # warms up, compiles
            if not on_cpu:
                model.zero_grad()  # gradients of the warm-up: their memory counts, as on a CPU
                one.row[f"{phase}_memory"] = peak_memory(calls[phase], settings.device)
            one.calls[phase] = calls[phase]
    except Exception as error:
        one.row["error"] = f"{'training: ' if one.calls else ''}{_reason(error)}"
    gc.collect()
    return True


def _calls(
    model: nn.Module, size: tuple[int, int], settings: Settings, compiled: bool = False
) -> dict[str, Callable[[], object]]:
    layout = torch.channels_last if settings.channels_last else None
    model = model.to(settings.device, memory_format=layout)
    x = settings.images(size)
    run = torch.compile(run_parts) if compiled else run_parts

    def outputs_of(training: bool) -> Any:
        if model.training != training:
            model.train(training)
        with settings.autocast():
            return run(model, x)

    @torch.no_grad()
    def forward() -> None:
        outputs_of(training=False)

    def training() -> None:
        model.zero_grad()
        leaves = torch.utils._pytree.tree_leaves(outputs_of(training=True))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
        sum(y.float().mean() for y in tensors).backward()

    return dict(forward=forward, training=training)


def _make_call(make: Make, spec: str, fuse: Any, phase: str, *options: Any) -> Callable[[], object]:
    model = make(spec)
    model.eval()
    return _calls(fuse(model) if fuse else model, *options)[phase]


def _reason(error: Exception) -> str:
    """Why there are no figures, in a few words."""
    text = str(error)
    full = ("out of memory", "allocate memory", "not enough memory", "ended the measuring process")
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(s in text for s in full):
        return "out of memory"
    line = next(iter(text.splitlines()), "")
    return f"{type(error).__name__}: {line[:200]}"


def _sample(one: Contestant, phase: str, device: str) -> None:
    """Times a call twice or more; the quickest counts, for the first finds cold caches."""
    call, times = one.calls[phase], []
    try:
        while len(times) < 2 or sum(times) < SHORTEST_SAMPLE:
            times.append(seconds_of(call, device))
        one.samples.setdefault(phase, []).append(min(times))
    except Exception as error:
        one.row["error"] = f"{phase}: {_reason(error)}"
        del one.calls[phase]


def _summarise(contestants: list[Contestant], phase: str) -> None:
    """Brings the rows up to date with the samples."""
    key = "latency" if phase == "forward" else "training"
    first = next((one.samples[phase] for one in contestants if phase in one.samples), [])
    for one in contestants:
        if not (samples := one.samples.get(phase)):
            continue
        low, middle, high = np.percentile(samples, (25, 50, 75)).tolist()
        ratios = [a / b for a, b in zip(samples, first, strict=False)]
        one.row[key] = middle
        one.row[f"{key}_spread"] = (high - low) / middle
        one.row[f"{key}_ratio"] = statistics.median(ratios)
        one.row[f"{key}_samples"] = [round(value, 5) for value in samples]
