"""Models side by side in one run: what they hold, compute, take and need.

Absolute times are those of one machine at one hour. Models are therefore timed in turn, round by
round, and compared by the medians of what they took in the same rounds.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmhybrid.analysis.counting import count, run_parts
from mmhybrid.analysis.timing import peak_memory, peak_memory_of, synchronise
from mmhybrid.apis.models import make_model
from mmhybrid.deploy import fuse

Row = dict[str, Any]
MODES = ("eager", "fused", "compiled")
FEWEST_ROUNDS = 3
SHORTEST_SAMPLE = 0.1  # seconds; a quick call is repeated to fill it

# Backbones that people would choose for dense prediction, ours first, each as a command line names
# it. The second half is of XFormer-S's size.
DENSE = {
    "TransXNet-T": "TransXNet('tiny')",
    "DMFormer-S": "DMFormer('small')",
    "DW-Swin-T": "DWSwinTransformer('tiny')",
    "XFormer-S": "XFormer('small')",
    "Swin-T": "mmdet.SwinTransformer",
    "ConvNeXt-T": "timm.convnext_tiny",
    "PVTv2-B1": "timm.pvt_v2_b1",
    "ResNet-50": "timm.resnet50",
    "MobileViT-S": "timm.mobilevit_s",
    "MobileNetV2 1.4": "timm.mobilenetv2_140",
    "MobileNetV3-L": "timm.mobilenetv3_large_100",
}
PRESETS = {"dense": DENSE}


@dataclass
class Settings:
    """What all rows of a run share.

    Attributes:
        batch_size: images in a call.
        precision: ``'float32'``, or ``'bfloat16'`` or ``'float16'`` by autocast.
        channels_last: give images and weights in that memory format.
        device: ``'cpu'`` or ``'cuda'``, or ``'cuda:1'`` and so on.
        repeats: timed rounds.
        train: measure training steps too: forward, and backward from the mean of all outputs,
            without a loss and without an optimiser.
        seconds: begin no round after this time, but for the first three; None for no limit.
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
    """A row in the making, with what is timed for it.

    Attributes:
        row: what is known so far.
        calls: by ``'forward'`` and ``'training'``, what to time; a call that failed is gone.
        samples: seconds of every timed call.
    """

    row: Row
    calls: dict[str, Callable[[], object]]
    samples: dict[str, list[float]]


def benchmark(
    models: dict[str, str],
    sizes: Sequence[tuple[int, int]],
    modes: Sequence[str] = ("eager",),
    settings: Settings | None = None,
    *,
    save: Callable[[list[Row]], None] = lambda rows: None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Measures every model in every mode at every size.

    A model that needs more memory than there is, or fails otherwise, gets a row that says so.

    Args:
        models: what :func:`mmhybrid.apis.models.make_model` takes, by the name to show.
        sizes: (height, width) of the images.
        modes: of :data:`MODES`. Fused, of :func:`mmhybrid.deploy.fuse`, is left out of models that
            it does not fuse, and never trained.
        settings: the defaults unless given.
        save: called with all rows so far after each round, so that a stopped run keeps them.
        say: called with a line of progress now and then.

    Returns:
        One row a model, mode and size. ``latency`` and ``training`` are seconds of a call: the
        median, under ``..._samples`` all rounds, and under ``..._spread`` the middle half's width
        over the median. ``latency_ratio`` and ``training_ratio`` are the median of the ratios to
        the first row of the same size in the same round. Memory is in bytes, beyond the weights.
    """
    settings = settings or Settings()
    started = time.perf_counter()
    finished: list[Row] = []
    for number, size in enumerate(sizes):
        contestants = []
        for name, model in models.items():
            for mode in modes:
                one = _prepare(name, model, mode, size, settings)
                if one is None:
                    continue
                contestants.append(one)
                say(f"{size[0]}x{size[1]}  {_described(one.row)}")
                save(finished + [one.row for one in contestants])
        share = None
        if settings.seconds is not None:
            left = settings.seconds - (time.perf_counter() - started)
            share = left / (len(sizes) - number)
        for kind in _rounds(contestants, settings, share, say):
            _summarise(contestants, kind)
            save(finished + [one.row for one in contestants])
        finished += [one.row for one in contestants]
    return finished


def _prepare(
    name: str, spec: str, mode: str, size: tuple[int, int], settings: Settings
) -> Contestant | None:
    """Makes a model, counts it and measures its memory; None for a mode that it does not have."""
    row = dict(model=name, spec=spec, mode=mode, size=list(size), batch_size=settings.batch_size)
    one = Contestant(row, {}, {})
    model = make_model(spec)
    model.eval()  # of mmdet's, this returns nothing
    if mode == "fused":
        try:
            model = fuse(model)
        except ValueError:
            return None
    on_cpu = torch.device(settings.device).type == "cpu"
    calls: dict[str, Callable[[], object]] = {}
    try:
        # The row of a fused model has the counts from before fusing, as tables have them.
        one.row.update(_counted(make_model(spec) if mode == "fused" else model, size))
        for kind in _kinds(mode, settings):
            if on_cpu and mode != "compiled" and os.path.exists("/proc/self/clear_refs"):
                # First, for it happens in another process: where memory runs out, that one ends.
                made = (_make_call, kind, spec, mode, size, settings)
                one.row[f"{kind}_memory"] = peak_memory_of(*made)
            calls = calls or _calls(model, mode, size, settings)
            calls[kind]()  # warms up, compiles
            if not on_cpu:
                model.zero_grad()  # gradients of the warm-up: their memory counts, as on a CPU
                one.row[f"{kind}_memory"] = peak_memory(calls[kind], device=settings.device)
            one.calls[kind] = calls[kind]
    except Exception as error:
        one.row["error"] = f"{'training: ' if one.calls else ''}{_reason(error)}"
    gc.collect()
    return one


def _kinds(mode: str, settings: Settings) -> list[str]:
    return ["forward", "training"] if settings.train and mode != "fused" else ["forward"]


def _counted(model: nn.Module, size: tuple[int, int]) -> Row:
    counts = asdict(count(model, size))
    return {key: counts[key] for key in ("parameters", "macs", "mm_macs", "activations")}


def _calls(
    model: nn.Module, mode: str, size: tuple[int, int], settings: Settings
) -> dict[str, Callable[[], object]]:
    """What is timed, each by its kind."""
    model = model.to(settings.device)
    if settings.channels_last:
        model = model.to(memory_format=torch.channels_last)
    x = settings.images(size)
    run = run_parts
    if mode == "compiled":
        run = torch.compile(run_parts)

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


def _tensors(outputs: Any) -> Iterator[Tensor]:
    """All tensors with gradients in nested outputs."""
    if isinstance(outputs, Tensor):
        if outputs.requires_grad:
            yield outputs
    elif isinstance(outputs, dict):
        yield from _tensors(list(outputs.values()))
    elif isinstance(outputs, list | tuple):
        for one in outputs:
            yield from _tensors(one)


def _make_call(
    kind: str, spec: str, mode: str, size: tuple[int, int], settings: Settings
) -> Callable[[], object]:
    """The function to time, made from scratch."""
    model = make_model(spec)
    model.eval()
    return _calls(fuse(model) if mode == "fused" else model, mode, size, settings)[kind]


def _reason(error: Exception) -> str:
    """Why there are no figures, in a few words."""
    text = str(error)
    full = ("out of memory", "allocate memory", "not enough memory", "ended the measuring process")
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(s in text for s in full):
        return "out of memory"
    line = next(iter(text.splitlines()), "")
    return f"{type(error).__name__}: {line[:200]}"


def _rounds(
    contestants: list[Contestant],
    settings: Settings,
    seconds: float | None,
    say: Callable[[str], None],
) -> Iterator[str]:
    """Times all contestants in turn, round by round; yields after each round what was timed."""
    kinds = [
        kind for kind in ("forward", "training") if any(kind in one.calls for one in contestants)
    ]
    for number, kind in enumerate(kinds):
        started = time.perf_counter()
        # What remains of the time is shared by what remains to be done.
        share = None if seconds is None else seconds / (len(kinds) - number)
        for turn in range(settings.repeats):
            spent = time.perf_counter() - started
            if share is not None and turn >= FEWEST_ROUNDS and spent * (turn + 1) / turn > share:
                break
            for one in contestants:
                if kind in one.calls:
                    _sample(one, kind, settings.device)
            say(f"{kind}: round {turn + 1} of {settings.repeats} ({spent:.0f} s so far)")
            yield kind
        if seconds is not None:
            seconds -= time.perf_counter() - started


def _sample(one: Contestant, kind: str, device: str) -> None:
    """Times a call twice, or as often as fills the shortest time worth measuring.

    The quickest counts: the first call finds cold caches, for others ran before it, and what else
    makes a call slow is not the model either.
    """
    call, times = one.calls[kind], []
    try:
        while len(times) < 2 or sum(times) < SHORTEST_SAMPLE:
            synchronise(device)
            start = time.perf_counter()
            call()
            synchronise(device)
            times.append(time.perf_counter() - start)
        one.samples.setdefault(kind, []).append(min(times))
    except Exception as error:
        one.row["error"] = f"{kind}: {_reason(error)}"
        del one.calls[kind]


def _summarise(contestants: list[Contestant], kind: str) -> None:
    """Brings the rows up to date with the samples."""
    key = "latency" if kind == "forward" else "training"
    first = next((one.samples[kind] for one in contestants if kind in one.samples), [])
    for one in contestants:
        samples = one.samples.get(kind)
        if not samples:
            continue
        one.row[key] = statistics.median(samples)
        one.row[f"{key}_spread"] = _spread(samples)
        one.row[f"{key}_ratio"] = statistics.median(
            a / b for a, b in zip(samples, first, strict=False)
        )
        one.row[f"{key}_samples"] = [round(value, 5) for value in samples]


def _spread(samples: list[float]) -> float:
    """The width of the middle half, over the median."""
    if len(samples) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return (high - low) / middle


def _described(row: Row) -> str:
    text = f"{row['model']} ({row['mode']})"
    if "parameters" in row:
        text += f": {row['parameters'] / 1e6:.1f} M parameters, {row['macs'] / 1e9:.1f} GMACs"
    for kind in ("forward", "training"):
        if f"{kind}_memory" in row:
            text += f", {kind} {row[f'{kind}_memory'] / 2**20:.0f} MiB"
    return f"{text}: {row['error']}" if "error" in row else text
