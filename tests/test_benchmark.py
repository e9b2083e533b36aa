"""Models side by side: what is measured, in what order, and what happens when it cannot be."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.results import read_results
from mmhybrid.analysis import benchmark as module
from mmhybrid.analysis import timing
from mmhybrid.analysis.benchmark import PEERS, Settings, smallest_models
from mmhybrid.analysis.benchmark_report import table
from mmhybrid.apis import deploy_ways
from mmhybrid.apis.models import make_model
from mmhybrid.backbones import backbone_classes
from mmhybrid.deploy import fuse

TINY = "XFormer"
PEER = "mmdet.MobileNetV2(out_indices=(2, 4))"
HUGE = (1_000_000, 1_000_000)  # 12 TB in float32
QUICK = Settings(repeats=2)
MADE = dict(command="c", commit="1", date="today", device="d", torch="2")


def benchmark(models: dict[str, str], *args: object, **options: object) -> list[dict]:
    return module.benchmark(models, *args, **(dict(make=make_model, fuse=fuse) | options))


@pytest.fixture(autouse=True)
def _short_samples(monkeypatch) -> None:
    monkeypatch.setattr(module, "SHORTEST_SAMPLE", 0)


@pytest.fixture
def no_process(monkeypatch) -> None:
    """Memory is not measured, which takes a process for each call."""
    monkeypatch.setattr(module, "peak_memory_of", lambda *args: 2**20)


def test_rows_hold_all_figures() -> None:
    rows = benchmark({"ours": TINY, "peer": PEER}, [(64, 96)], ["eager", "fused"], QUICK)
    shown = [(row["model"], row["mode"]) for row in rows]
    assert shown == [("ours", "eager"), ("ours", "fused"), ("peer", "eager")]
    for row in rows:
        assert "error" not in row
        assert row["size"] == [64, 96]
        assert min(row["macs"], row["mm_macs"], row["activations"] * 100) > 1e7
        assert row["latency"] > 0
        assert len(row["latency_samples"]) == 2
        assert row["forward_memory"] > 2**20
        assert ("training" in row) == (row["mode"] == "eager")
    ours, fused, _ = rows
    assert ours["parameters"] == fused["parameters"] == 4_786_148
    assert ours["latency_ratio"] == ours["training_ratio"] == 1
    assert ours["training"] > ours["latency"]
    assert ours["training_memory"] > ours["forward_memory"]
    assert "| ours, fused |" in table(rows, MADE, QUICK)


@pytest.mark.usefixtures("no_process")
def test_models_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    order = []

    def sample(one: module.Contestant, phase: str, device: str) -> None:
        order.append((one.row["model"], phase))

    monkeypatch.setattr(module, "_sample", sample)
    benchmark({"a": "mmdet.ResNet(depth=18)", "b": PEER}, [(64, 64)], ["eager"], QUICK)
    turns = [[("a", phase), ("b", phase)] * 2 for phase in ("forward", "training")]
    assert order == turns[0] + turns[1]


def test_out_of_memory_is_a_row() -> None:
    rows = benchmark({"ours": TINY}, [HUGE, (32, 32)], ["eager"], Settings(repeats=1, train=False))
    assert [row.get("error") for row in rows] == ["out of memory", None]
    assert rows[0]["macs"] > 1e12  # counted nevertheless
    assert "ours: out of memory." in table(rows, MADE, QUICK)


@pytest.mark.usefixtures("no_process")
def test_what_cannot_run_is_a_row() -> None:
    models = {"fixed": "timm.vit_tiny_patch16_224(features_only=False)", "ours": TINY}
    rows = benchmark(models, [(64, 64)], ["eager"], Settings(repeats=1, train=False))
    assert "Input height (64) doesn't match model (224)" in rows[0]["error"]
    assert rows[1]["latency_ratio"] == 1


@pytest.mark.usefixtures("no_process")
def test_a_limit_of_time_leaves_three_rounds() -> None:
    settings = Settings(repeats=50, train=False, seconds=0.01)
    (row,) = benchmark({"peer": PEER}, [(32, 32)], settings=settings)
    assert len(row["latency_samples"]) == module.FEWEST_ROUNDS


def test_autocast_and_channels_last_reach_the_model() -> None:
    settings = Settings(precision="bfloat16", channels_last=True)
    assert settings.images((32, 32)).is_contiguous(memory_format=torch.channels_last)
    with settings.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_memory_of_training_counts_the_gradients_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device stands for a GPU: it has neither memory to measure nor work to time."""
    model, left, waited = make_model(PEER), [], []

    def peak_memory(function, device: str) -> int:
        left.append(any(weight.grad is not None for weight in model.parameters()))
        function()
        return 2**20

    monkeypatch.setattr(module, "peak_memory", peak_memory)
    monkeypatch.setattr(timing, "synchronise", waited.append)
    settings = Settings(device="meta", repeats=1)
    (row,) = benchmark({"peer": PEER}, [(64, 64)], settings=settings, make=lambda spec: model)
    assert "error" not in row
    assert row["training_memory"] == 2**20
    assert left == [False, False]
    assert set(waited) == {"meta"}


@pytest.mark.usefixtures("no_process")
def test_a_stopped_run_keeps_what_it_has(run_tool, monkeypatch, tmp_path: Path) -> None:
    real, rounds = module._sample, iter(range(2))

    def stop(*args: object) -> None:
        if next(rounds) == 1:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(module, "_sample", stop)
    options = ["--size", "32", "--no-train", "--repeats", "3", "--out", tmp_path]
    with pytest.raises(SystemExit, match="stopped; what was measured is in"):
        run_tool("benchmark.py", PEER, *options)
    (row,) = read_results([tmp_path])["benchmark"]
    assert len(row["latency_samples"]) == 1


def test_a_wrong_name_is_told_before_anything_is_measured(run_tool, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(module, "benchmark", lambda *args, **options: pytest.fail("it measures"))
    with pytest.raises(SystemExit, match=r"error: timm\.nothing cannot be made"):
        run_tool("benchmark.py", PEER, "timm.nothing", "--size", "32", "--out", tmp_path)


@pytest.mark.usefixtures("no_process")
def test_tool(run_tool, tmp_path: Path, capsys) -> None:
    options = ["--size", "32x64", "--repeats", "1", "--threads", "1", "--name", "mine"]
    run_tool("benchmark.py", PEER, *options, "--out", tmp_path)
    assert "| MACs, G |" in capsys.readouterr().out
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "mine.json").read_text())
    assert content["made"]["command"].startswith("python tools/benchmark.py")
    assert content["settings"]["repeats"] == 1
    assert content["rows"][0]["size"] == [32, 64]


@pytest.mark.onnx
def test_every_way_to_run_a_model(run_tool, monkeypatch, capsys) -> None:
    real = deploy_ways.measure_ways
    without = dict(leave_out=["PyTorch compiled"])  # which takes half a minute
    monkeypatch.setattr(deploy_ways, "measure_ways", lambda *args, **o: real(*args, **o, **without))
    spec = "DWVisionTransformer(arch={'embed_dims': 48, 'depth': 4})"
    run_tool("benchmark.py", spec, "--deploy", "--size", "64x96", "--repeats", "2")
    printed = capsys.readouterr().out
    rows = [line.split("|")[1:-1] for line in printed.splitlines() if line.startswith("|")][2:]
    ways = {row[0].strip(): [float(cell) for cell in row[1:]] for row in rows if "-" not in row[1]}
    assert {"PyTorch", "PyTorch fused", "onnxruntime", "OpenVINO"} <= ways.keys()
    assert ways["PyTorch"][1:3] == [1, 0]
    assert max(ways[way][2] for way in ways if "bf16" not in way) < 1e-3
    assert "fastest: " in printed


def test_what_a_table_of_ways_says() -> None:
    rows = [
        dict(way="PyTorch", milliseconds=90.0, times=1.0, difference=0.0, seconds_to_make=0.1),
        dict(way="PyTorch compiled", error="UserError: no compiler"),
        dict(way="OpenVINO", milliseconds=45.0, times=2.0, difference=1e-6, seconds_to_make=9.0),
        dict(
            way="OpenVINO bf16", milliseconds=30.0, times=3.0, difference=0.1, seconds_to_make=9.0
        ),
    ]
    *table, failed, fastest, exact = deploy_ways.table_of_ways(rows, "a.pth", (64, 96)).splitlines()
    assert len(table) == 7
    assert failed == "PyTorch compiled: UserError: no compiler"
    export = "python -m mmhybrid export a.pth --size 64x96 --out FOLDER --format openvino"
    assert fastest == f"fastest: OpenVINO bf16, 3.00 times as fast: {export} --precision bf16"
    assert exact == f"fastest in float32: OpenVINO, 2.00 times as fast: {export}"


def test_every_backbone_is_measured() -> None:
    models = smallest_models()
    assert models["TransXNet-T"] == "TransXNet('tiny')"
    assert len(models) == len(backbone_classes()) >= 6


def test_the_preset_names_models_that_there_are() -> None:
    for spec in PEERS.values():
        assert len(make_model(spec)(torch.zeros(1, 3, 64, 64))) >= 4
