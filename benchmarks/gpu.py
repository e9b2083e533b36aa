"""What a machine with a GPU shows: tests, equality, demos, speed. Written as each section ends."""

from __future__ import annotations

import itertools
import json
import platform
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from benchmarks.gpu_choices import choices
from benchmarks.speed import table
from mmhybrid.analysis.benchmark import PEERS, Settings, benchmark, smallest_models
from mmhybrid.analysis.counting import run_parts
from mmhybrid.apis.models import make_model
from mmhybrid.apis.random_init import random_init
from mmhybrid.deploy import fuse
from mmhybrid.engine.runner.results import write_json
from mmhybrid.errors import UserError

Row = dict[str, Any]
Values = tuple[list[Tensor], list[Tensor]]
ROOT = Path(__file__).resolve().parents[1]
FAMILIES = ("TransXNet-T", "XFormer-S", "DMFormer-S", "DW-Swin-T")
BESIDE = {name: PEERS[name] for name in ("Swin-T", "ConvNeXt-T", "PVTv2-B1", "ResNet-50")}
DEMOS = ("mask_rcnn_transxnet_t_coco", "semantic_fpn_transxnet_t_ade20k")


@dataclass
class Scale:
    """How much is measured."""

    images: tuple[tuple[tuple[int, int], int], ...]  # size and batch size of the speed tables
    equality: tuple[int, int]
    repeats: int
    most: int  # models of a table
    speed: tuple[tuple[str, bool], ...]  # precision, and whether channels last
    demo: tuple[str, ...]  # words after --quick
    tests: tuple[str, ...]  # words of pytest


TINY = "quick.iterations=2 quick.train_images=4 quick.val_images=2 quick.size=64 quick.batch_size=2"
SCALES = {
    "full": Scale(
        images=(((224, 224), 128), ((800, 1344), 2)),
        equality=(224, 224),
        repeats=3,
        most=8,
        speed=(("bfloat16", False), ("bfloat16", True), ("float32", False)),
        demo=(),
        tests=("tests/test_gpu.py", "tests/test_compat_mmcv_ext.py"),
    ),
    "tiny": Scale(
        images=(((64, 64), 2),),
        equality=(64, 64),
        repeats=1,
        most=2,
        speed=(("bfloat16", False),),
        demo=("--cfg-options", *TINY.split()),
        tests=("tests/test_gpu.py", "-k", "equal and XFormer"),
    ),
}


def machine(device: str, scale: Scale) -> list[Row]:
    """What ran."""
    about = dict(device=device, torch=torch.__version__, python=platform.python_version())
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        about["device"] = properties.name
        about |= dict(cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version())
    return [dict(item=key, value=str(value)) for key, value in about.items()]


def tests(device: str, scale: Scale) -> list[Row]:
    """The tests that need a GPU; on a CPU they are skipped, and counted as such."""
    report = ROOT / "work_dirs" / "gpu" / "tests.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    words = ["-m", "gpu", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *scale.tests]
    words += ["-n", "4", "--durations=10"] if device == "cuda" else []
    subprocess.run([sys.executable, "-m", "pytest", *words], cwd=ROOT)
    cases = ET.parse(report).getroot().iter("testcase")
    rows: dict[str, Row] = {}
    for case in cases:
        file = case.get("classname", "").rpartition(".")[2]
        row = rows.setdefault(file, dict(file=file, passed=0, skipped=0, failed=0, which=""))
        tags = {child.tag for child in case}
        if tags & {"failure", "error"}:
            row["failed"] += 1
            row["which"] += f" {case.get('name')}"
        else:
            row["skipped" if "skipped" in tags else "passed"] += 1
    return list(rows.values())


def equality(device: str, scale: Scale) -> list[Row]:
    """Distance of outputs and gradients from float64 on the CPU, |a - b| / |b|, by precision."""
    rows = []
    for name, spec in itertools.islice(smallest_models().items(), scale.most):
        model = random_init(make_model(spec)).double().eval()
        images = torch.randn(2, 3, *scale.equality)
        exact = outputs_and_gradients(model, images.double())
        model, x = model.float().to(device), images.to(device)
        ways: dict[str, Callable[[], Values]] = {
            "float32": partial(outputs_and_gradients, model, x),
            "float32, fused": lambda m=model, x=x: (_outputs(fuse(m), x), []),
            "bfloat16, fused": lambda m=model, x=x: (_outputs(fuse(m, torch.bfloat16), x), []),
            "bfloat16 by autocast": partial(outputs_and_gradients, model, x, torch.bfloat16),
            "float16 by autocast": partial(outputs_and_gradients, model, x, torch.float16),
        }
        for way, run in ways.items():
            row = dict(model=name, precision=way, outputs="", gradients="")
            try:
                with torch.backends.cudnn.flags(allow_tf32=False):
                    outputs, gradients = run()
                row["outputs"] = distance(outputs, exact[0])
                row["gradients"] = distance(gradients, exact[1]) if gradients else ""
            except Exception as error:
                row["outputs"] = f"{type(error).__name__}: {error}"[:200]
            rows.append(row)
    return rows


def _outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    return [y.detach() for y in tree_leaves(run_parts(model, x))]


def outputs_and_gradients(
    model: nn.Module, x: Tensor, autocast: torch.dtype | None = None
) -> Values:
    """What a model returns, and a gradient for every parameter, zero where it plays no part."""
    model.zero_grad(set_to_none=True)
    with torch.autocast(x.device.type, autocast, enabled=autocast is not None):
        outputs = tree_leaves(run_parts(model, x))
    type = torch.float64 if x.dtype == torch.float64 else torch.float32
    sum(y.to(type).square().mean() for y in outputs).backward()
    parameters = [one for one in model.parameters() if one.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
    return [y.detach() for y in outputs], gradients


def distance(got: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """``|got - exact| / |exact|`` over all values."""
    pairs = [(a.double().cpu(), b.double().cpu()) for a, b in zip(got, exact, strict=True)]
    over = sum((a - b).square().sum() for a, b in pairs)
    return (over / sum(b.square().sum() for _, b in pairs)).sqrt().item()


def demos(device: str, scale: Scale) -> list[Row]:
    """``tools/train.py CONFIG --quick``, with mixed precision on a GPU, to its last metric."""
    rows = []
    for name in DEMOS:
        work = ROOT / "work_dirs" / "gpu" / name
        command = [sys.executable, "tools/train.py", f"configs/{name}.py", "--quick"]
        command += ["--work-dir", str(work), *(["--amp"] if device == "cuda" else []), *scale.demo]
        start = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        row: Row = dict(config=name, seconds=time.perf_counter() - start, metrics="")
        if done.returncode:
            print(done.stdout[-3000:], done.stderr[-3000:])
            row["metrics"] = f"failed: {(done.stderr.strip().splitlines() or [''])[-1][:300]}"
        else:
            metrics = json.loads((work / "result.json").read_text())["metrics"]
            shown = ("bbox_mAP_50", "segm_mAP_50", "mIoU")
            kept = {k: v for k, v in metrics.items() if k.endswith(shown)}
            row["metrics"] = ", ".join(f"{k} {v:.4g}" for k, v in (kept or metrics).items())
        rows.append(row)
    return rows


def speed(device: str, scale: Scale) -> list[Row]:
    """Inference and training, eager and fused, ours beside their peers."""
    models = _models(scale.most, BESIDE)
    rows = []
    for size, batch in scale.images:
        base = Settings(batch_size=batch, device=device, repeats=scale.repeats, count=False)
        for precision, channels_last in scale.speed:
            settings = replace(base, precision=precision, channels_last=channels_last)
            found = benchmark(
                models, [size], ("eager", "fused"), settings, make=make_model, fuse=fuse
            )
            rows += [_speed_row(row, settings) for row in found]
            print(table(rows[-len(found) :]), flush=True)
    return rows


def compiled(device: str, scale: Scale) -> list[Row]:
    """The same compiled, against eager in the same run; the first compiling is not timed."""
    models = _models(scale.most, {name: BESIDE[name] for name in ("Swin-T", "ResNet-50")})
    size, batch = scale.images[0]
    settings = Settings(
        batch_size=batch, device=device, repeats=scale.repeats, count=False, precision="bfloat16"
    )
    rows: list[Row] = []
    for name, spec in models.items():
        torch._dynamo.reset()
        start = time.perf_counter()
        modes = ("eager", "compiled")
        found = benchmark({name: spec}, [size], modes, settings, make=make_model, fuse=fuse)
        seconds = time.perf_counter() - start
        rows += [_speed_row(row, settings) | dict(seconds_of_all=seconds) for row in found]
        print(table(rows[-len(found) :]), flush=True)
    return rows


def _models(most: int, peers: dict[str, str]) -> dict[str, str]:
    """Ours and ``peers``, as ``make_model`` takes them."""
    specs = smallest_models()
    specs = {name: specs[name] for name in FAMILIES} | peers
    return dict(itertools.islice(specs.items(), most))


def _speed_row(row: Row, settings: Settings) -> Row:
    height, width = row["size"]
    images = settings.batch_size
    found = dict(model=row["model"], mode=row["mode"], size=f"{height}x{width}", batch=images)
    found |= dict(precision=settings.precision, channels_last=settings.channels_last)
    for phase, key in (("forward", "latency"), ("training", "training")):
        seconds, memory = row.get(key), row.get(f"{phase}_memory")
        found[f"{phase}, images/s"] = images / seconds if seconds else ""
        found[f"{phase}, MiB"] = memory / 2**20 if memory else ""
    return found | dict(error=row.get("error", ""))


def profile(device: str, scale: Scale) -> list[Row]:
    """Where the time of a training step goes: the operations that take most."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    size, batch = scale.images[-1]
    key = "self_device_time_total" if device == "cuda" else "self_cpu_time_total"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    rows = []
    for name, spec in _models(scale.most, {}).items():
        model = random_init(make_model(spec)).train().to(device)
        x = torch.randn(batch, 3, *size, device=device)
        outputs_and_gradients(model, x, torch.bfloat16)
        with record(activities=activities) as prof:
            for _ in range(3 if device == "cuda" else 1):
                outputs_and_gradients(model, x, torch.bfloat16)
        events = sorted(prof.key_averages(), key=lambda one: -getattr(one, key))
        # On a GPU the kernels themselves; their operations would count them twice.
        if device == "cuda":
            events = [one for one in events if one.device_type == torch.autograd.DeviceType.CUDA]
        whole = sum(getattr(one, key) for one in events) or 1
        for one in events[:12]:
            about = dict(model=name, operation=one.key[:90].replace("|", "/"), calls=one.count)
            rows.append(about | dict(share=getattr(one, key) / whole))
        del model
    return rows


SECTIONS: dict[str, Callable[[str, Scale], list[Row]]] = {
    "machine": machine,
    "tests": tests,
    "equality": equality,
    "choices": lambda device, scale: choices(device, is_tiny=scale is SCALES["tiny"]),
    "demos": demos,
    "speed": speed,
    "profile": profile,
    "compiled": compiled,
}


def measure(sections: Sequence[str], folder: Path, device: str, scale: str) -> str:
    """Measures ``sections``, or all, and writes gpu.json and gpu.md, which it returns.

    A section that fails is written down with its reason, and the others go on; what is not measured
    stays as it was.
    """
    if unknown := set(sections) - {*SECTIONS}:
        raise UserError(f"no section {', '.join(unknown)}: there are {', '.join(SECTIONS)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("PyTorch finds no GPU here; try the command itself with: --device cpu")
    folder.mkdir(parents=True, exist_ok=True)
    file, begin = folder / "gpu.json", time.perf_counter()
    results = json.loads(file.read_text()) if file.exists() else {}
    for section in sections or SECTIONS:
        print(f"== {section}, after {time.perf_counter() - begin:.0f} s", flush=True)
        start = time.perf_counter()
        try:
            rows = SECTIONS[section](device, SCALES[scale])
        except Exception as error:
            rows = [dict(failed=f"{type(error).__name__}: {error}")]
        seconds = time.perf_counter() - start
        results[section] = dict(rows=rows, seconds=seconds, on=machine(device, SCALES[scale]))
        write_json(file, results)
        (folder / "gpu.md").write_text(page(results))
        print(table(rows), flush=True)
    return page(results)


def page(results: dict[str, Any]) -> str:
    """All sections as Markdown."""
    parts = ["# On a GPU", "By `make gpu`. Weights are filled at random."]
    for section in SECTIONS:
        if section in results:
            one = results[section]
            on = ", ".join(row["value"] for row in one["on"][:2])
            parts += [f"## {section}", f"{(SECTIONS[section].__doc__ or '').strip()}"]
            parts += [f"{on}; {one['seconds']:.0f} s.", table(one["rows"])]
    return "\n\n".join(filter(None, parts)) + "\n"
