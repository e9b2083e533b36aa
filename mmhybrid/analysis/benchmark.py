"""Models side by side in one run: size, operations, time and memory.

Absolute times depend on the machine and the hour. Models are therefore timed in turn, round by
round, and compared by the medians of the ratios within the same rounds.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmhybrid.analysis.counting import count, run_parts
from mmhybrid.analysis.timing import peak_memory, peak_memory_of, seconds_of
from mmhybrid.backbones.base import backbone_classes

Row = dict[str, Any]
Make = Callable[[str], nn.Module]
PHASES = ("forward", "training")
FEWEST_ROUNDS = 3
SHORTEST_SAMPLE = 0.1  # seconds; a quick call is repeated to fill it


@dataclass
class Settings:
    """What all rows of a run share.

    Attributes:
        batch_size (int): Images in a call.
        precision (str): ``'float32'``, or ``'bfloat16'`` or ``'float16'`` by autocast.
        channels_last (bool): Memory format of images and weights.
        device (str): ``'cpu'``, ``'cuda'``, ``'cuda:1'`` and so on.
        repeats (int): Timed rounds.
        train (bool): Measure training steps too: forward, and backward from the mean of all
            outputs, without loss and optimiser.
        seconds (float | None): No round begins after this time, but for the first three. None is
            no limit.
    """

    batch_size: int = 1
    precision: str = "float32"
    channels_last: bool = False
    device: str = "cpu"
    repeats: int = 20
    train: bool = True
    seconds: float | None = None

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
    """Measures every model in every mode at every size.

    A model that fails, because memory runs out say, gets a row with the reason.

    Args:
        models (Mapping[str, str]): What ``make`` takes, by the name to show.
        sizes (Sequence[tuple]): (height, width) of the images.
        modes (Sequence[str]): Of ``'eager'``, ``'fused'`` (not trained) and ``'compiled'``.
        settings (Settings): The defaults unless given.
        make (Callable): Makes a model, e.g. :func:`mmhybrid.apis.models.make_model`. It is pickled,
            and so is ``fuse``.
        fuse (Callable): Makes the model of mode ``'fused'``, e.g. :func:`mmhybrid.deploy.fuse`; a
            model for which it raises ValueError is left out of that mode.
        save (Callable): Called with all rows so far after each round.
        log (Callable): Called with a line of progress now and then.

    Returns:
        One row a model, mode and size. ``latency`` and ``training`` are seconds of a call: the
        median; ``..._samples`` all rounds; ``..._spread`` the interquartile range over the median;
        ``..._ratio`` the median of the ratios to the first row of the same size in the same round.
        Memory is in bytes, beyond the weights.
    """
    settings = settings or Settings()
    started = time.perf_counter()
    phases = PHASES if settings.train else PHASES[:1]
    to_do = len(sizes) * len(phases)  # which share the time that remains
    finished: list[Row] = []
    for size in sizes:
        contestants = []
        for name, spec in models.items():
            for mode in modes:
                row = dict(model=name, spec=spec, mode=mode, size=list(size))
                one = Contestant(dict(row, batch_size=settings.batch_size))
                if _prepare(one, settings, make, fuse):
                    contestants.append(one)
                    log(", ".join(f"{key}: {value}" for key, value in one.row.items()))
                    save(finished + [one.row for one in contestants])
        for phase in phases:
            share = None
            if settings.seconds is not None:
                share = (settings.seconds - (time.perf_counter() - started)) / to_do
            to_do -= 1
            for turn in _rounds(contestants, phase, settings, share):
                _summarise(contestants, phase)
                save(finished + [one.row for one in contestants])
                log(f"{phase}: round {turn + 1} of {settings.repeats}")
        finished += [one.row for one in contestants]
    return finished


def _prepare(one: Contestant, settings: Settings, make: Make, fuse: Any) -> bool:
    """Makes, counts and warms up a model, and measures its memory; False if it lacks the mode."""
    spec, mode, size = one.row["spec"], one.row["mode"], tuple(one.row["size"])
    model = make(spec)
    model.eval()  # of mmdet's, this returns nothing
    unfused = model
    if mode == "fused":
        try:
            model = fuse(model)
        except ValueError:
            return False
    phases = PHASES if settings.train and mode != "fused" else PHASES[:1]
    on_cpu = torch.device(settings.device).type == "cpu"
    calls: dict[str, Callable[[], object]] = {}
    try:
        counts = count(unfused, size)
        for key in ("parameters", "macs", "mm_macs", "activations"):
            one.row[key] = getattr(counts, key)
        for phase in phases:
            if on_cpu and mode != "compiled" and os.path.exists("/proc/self/clear_refs"):
                # First, for it happens in another process: where memory runs out, that one ends.
                made = (_make_call, phase, spec, size, settings, make, mode == "fused" and fuse)
                one.row[f"{phase}_memory"] = peak_memory_of(*made)
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
    """What is timed, by phase."""
    model = model.to(settings.device)
    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)
    x = settings.images(size)
    run = torch.compile(run_parts) if compiled else run_parts

    @torch.no_grad()
    def forward() -> None:
        if model.training:
            model.eval()
        with settings.autocast():
            run(model, x)

    def training() -> None:
        if not model.training:
            model.train()
        model.zero_grad()
        with settings.autocast():
            outputs = run(model, x)
        sum(y.float().mean() for y in _tensors(outputs)).backward()

    return dict(forward=forward, training=training)


def _tensors(outputs: Any) -> list[Tensor]:
    """All tensors with gradients in nested outputs."""
    leaves = torch.utils._pytree.tree_leaves(outputs)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]


def _make_call(
    phase: str, spec: str, size: tuple[int, int], settings: Settings, make: Make, fuse: Any
) -> Callable[[], object]:
    """The function to time, made from scratch."""
    model = make(spec)
    model.eval()
    return _calls(fuse(model) if fuse else model, size, settings)[phase]


def _reason(error: Exception) -> str:
    """Why there are no figures, in a few words."""
    text = str(error)
    full = ("out of memory", "allocate memory", "not enough memory", "ended the measuring process")
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(s in text for s in full):
        return "out of memory"
    line = next(iter(text.splitlines()), "")
    return f"{type(error).__name__}: {line[:200]}"


def _rounds(
    contestants: list[Contestant], phase: str, settings: Settings, seconds: float | None
) -> Iterator[int]:
    """Times all contestants in turn; yields the number of each round."""
    started = time.perf_counter()
    for turn in range(settings.repeats):
        spent = time.perf_counter() - started
        if seconds is not None and turn >= FEWEST_ROUNDS and spent * (turn + 1) / turn > seconds:
            break
        racing = [one for one in contestants if phase in one.calls]
        if not racing:
            break
        for one in racing:
            _sample(one, phase, settings.device)
        yield turn


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
        samples = one.samples.get(phase)
        if not samples:
            continue
        low = middle = high = samples[0]
        if len(samples) > 1:
            low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
        ratios = [a / b for a, b in zip(samples, first, strict=False)]
        one.row[key] = middle
        one.row[f"{key}_spread"] = (high - low) / middle
        one.row[f"{key}_ratio"] = statistics.median(ratios)
        one.row[f"{key}_samples"] = [round(value, 5) for value in samples]
