"""Timing, peak memory and the rows of the speed table, at sizes that take no time."""

import json
import re
import sys
import time
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from benchmarks import deploy_speed
from benchmarks import speed as sections
from benchmarks import transxnet_speed as speed
from benchmarks.__main__ import main
from benchmarks.parts_speed import attention_cost, fused_speed, shortcut_cost
from benchmarks.training_speed import BESIDE, training_steps
from mmhybrid.analysis.tables import markdown_table
from mmhybrid.analysis.timing import (
    peak_memory,
    peak_memory_of,
    ratio,
    synchronise,
    time_interleaved,
)

SMALL = (64, 96)


def test_functions_are_timed_in_turn() -> None:
    calls = []
    slow, fast = lambda: (calls.append("slow"), time.sleep(0.02)), lambda: calls.append("fast")
    seconds = time_interleaved(dict(slow=slow, fast=fast), repeats=3, warmup=1)
    assert calls == ["slow", "fast"] * 4
    assert {name: len(values) for name, values in seconds.items()} == {"slow": 3, "fast": 3}
    assert ratio(seconds, "slow", "fast") > 2


def test_peak_memory_counts_what_is_freed_again() -> None:
    # 1 MiB a row.
    small, large = (peak_memory_of(partial, np.ones, (n, 2**17)) / 2**20 for n in (32, 256))
    assert 200 < large - small < 250
    with pytest.raises(RuntimeError, match="failed: ZeroDivisionError"):
        peak_memory_of(partial, divmod, 1, 0)


def test_a_gpu_is_asked_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"memory_allocated.return_value": 100, "max_memory_allocated.return_value": 350}
    monkeypatch.setattr(torch, "cuda", Mock(**values))
    assert peak_memory(lambda: None, "cuda:1") == 250
    synchronise("cuda:1")
    synchronise("cpu")
    asked = [call.args for call in torch.cuda.mock_calls if call.args]
    assert asked == [("cuda:1",)] * 6


@pytest.mark.full_size
def test_rows_of_the_speed_table() -> None:
    rows = speed.forward(SMALL, repeats=1)
    assert [row["model"] for row in rows] == ["plain", "TransXNet-T", "TransXNet-T fused"]
    assert rows[0]["times_plain"] == 1
    assert all(row["seconds"] > 0 for row in rows)
    training = speed.training_step(SMALL, 2, repeats=1)
    assert all(row["seconds"] > 0 and row["peak_mib"] > 0 for row in training)
    rows = training_steps(64, 1, ours=dict(XFormer="XFormer"), beside=[BESIDE], repeats=1)
    assert [row["model"] for row in rows] == ["XFormer", BESIDE]
    assert rows[0]["times_as_long"] > 0
    assert rows[0]["peak_mib"] > 1
    assert rows[1]["times_as_long"] == 1
    growth = speed.growth((64, 128), repeats=1)
    assert growth[1]["peak_mib"] > growth[0]["peak_mib"]


@pytest.mark.full_size
def test_errors_against_float64() -> None:
    errors = {row["precision"]: row["largest"] for row in speed.errors(SMALL)}
    assert errors["float64"] < 1e-12
    assert errors["float32"] < 1e-3
    assert errors["float32, fused"] < 1e-3
    assert errors["float16 autocast"] < errors["bfloat16 autocast"] < 0.2


@pytest.mark.full_size
def test_rows_of_fused_models() -> None:
    rows = fused_speed(64, {"DMFormer-S": "DMFormer", "XFormer-S": "XFormer"}, repeats=1)
    assert len(rows) == 2 * 3
    assert all(row["seconds"] > 0 for row in rows)
    assert all(row["error"] < 1e-4 and row["error_float64"] < 1e-10 for row in rows)
    assert any(row["error"] > 0 for row in rows if row["form"] == "fused")


def test_rows_of_parts() -> None:
    rows = attention_cost((16, 32), 8, 2, repeats=1)
    assert [row["tokens"] for row in rows] == [16] * 3 + [32] * 3
    assert all(row["seconds"] > 0 for row in rows)
    rows = shortcut_cost(32, 1, repeats=1)
    assert rows[0]["times_as_long_as_swin"] == 1
    assert len(rows) == 3


def test_command_keeps_what_it_does_not_measure(monkeypatch, tmp_path: Path, root: Path) -> None:
    measured = json.loads((root / "results" / "speed.json").read_text())
    (tmp_path / "speed.json").write_text(json.dumps(measured))
    rows = measured["attention_cost"]
    monkeypatch.setitem(sections.SECTIONS, "growth", lambda repeats: measured["growth"])
    monkeypatch.setitem(sections.SECTIONS, "attention_cost", lambda repeats: rows[: 3 * repeats])
    options = ["--out", str(tmp_path), "--repeats=2", f"--threads={torch.get_num_threads()}"]
    command = ["benchmarks", "speed", "growth", "attention_cost", *options]
    monkeypatch.setattr(sys, "argv", command)
    main()
    now = json.loads((tmp_path / "speed.json").read_text())
    assert now["forward"] == measured["forward"]
    assert len(now["attention_cost"]) == 6
    assert now["machines"]["growth"]["threads"] == torch.get_num_threads()
    for plot in ("transxnet_growth.png", "attention_cost.png"):
        assert (tmp_path / plot).read_bytes().startswith(b"\x89PNG")
    command.insert(2, "nothing")
    with pytest.raises(SystemExit, match="error: no section nothing: there are forward, "):
        main()


@pytest.mark.parametrize(("name", "module"), [("speed", sections), ("deploy", deploy_speed)])
def test_published_pages_are_those_of_the_figures(root: Path, name: str, module) -> None:
    file = root / "results" / f"{name}.json"
    if not file.exists():
        pytest.skip(f"{file} is not there: python -m benchmarks {name} writes it")
    assert module.page(json.loads(file.read_text())) == file.with_suffix(".md").read_text()


def test_page_of_deploy() -> None:
    ways = [dict(way="PyTorch", milliseconds=2.0), dict(way="onnxruntime", error="OSError: none")]
    page = deploy_speed.page({"rows": {"A 8x9": dict(machine=dict(threads=2), ways=ways)}})
    assert "\n\nthreads: 2\n\n|" in page
    assert re.search(r"\| A +\| +8x9 \| PyTorch +\| +2 \| +- \|", page)
    assert page.endswith("\n\n* A 8x9, onnxruntime: OSError: none\n")


def test_deploy_measures_what_it_has_not(monkeypatch, tmp_path: Path) -> None:
    measured = []
    monkeypatch.setattr(deploy_speed, "_rows", lambda specs, *rest: measured.append(specs) or [])
    command = ["benchmarks", "deploy", "--models", "XFormer-S", "--sizes", "8x9", "16"]
    options = [f"--out={tmp_path}", f"--graphs={tmp_path}", f"--threads={torch.get_num_threads()}"]
    monkeypatch.setattr(sys, "argv", [*command, *options])
    main()
    main()
    assert len(measured) == 2
    assert list(measured[0]) == ["XFormer-S", "Swin-T"]
    rows = json.loads((tmp_path / "deploy.json").read_text())["rows"]
    assert list(rows) == ["XFormer-S 8x9", "XFormer-S 16x16"]
    command[3] = "XFormer-X"
    monkeypatch.setattr(sys, "argv", [*command, *options])
    with pytest.raises(SystemExit, match="error: no XFormer-X: there are "):
        main()


def test_fitted_exponent() -> None:
    rows = [{"pixels": n, "seconds": 3e-6 * n**1.5} for n in (100, 1000, 5000)]
    assert speed.fitted_exponent(rows, "seconds") == pytest.approx(1.5)


def test_markdown_table() -> None:
    assert markdown_table(["model", "a|b"], [["x|y", 1.5], ["z", "-"]]).splitlines() == [
        "| model | a\\|b |",
        "| :-----|----: |",
        "| x\\|y  |  1.5 |",
        "| z     |    - |",
    ]
