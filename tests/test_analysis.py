"""Timing, peak memory and the rows of the speed table, at sizes that take no time."""

import time

import pytest
import torch

from benchmarks import transxnet_speed as speed
from benchmarks.fused_speed import fused_speed
from mmhybrid.analysis.timing import peak_memory, ratio, synchronise, time_interleaved

SMALL = (64, 96)


def test_functions_are_timed_in_turn() -> None:
    calls = []
    seconds = time_interleaved(
        {
            "slow": lambda: (calls.append("slow"), time.sleep(0.02)),
            "fast": lambda: calls.append("fast"),
        },
        repeats=3,
        warmup=1,
    )
    assert calls == ["slow", "fast"] * 4
    assert {name: len(values) for name, values in seconds.items()} == {"slow": 3, "fast": 3}
    assert ratio(seconds, "slow", "fast") > 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="measures the CPU's memory")
def test_peak_memory_counts_what_is_freed_again() -> None:
    def fill(mebibytes: int) -> None:
        torch.ones(mebibytes, 2**18)  # 1 MiB a row

    small, large = (peak_memory(lambda n=n: fill(n)) / 2**20 for n in (32, 256))
    assert 200 < large - small < 250
    with pytest.raises(RuntimeError, match="failed"):
        peak_memory(lambda: 1 / 0)


def test_a_gpu_is_asked_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    values = dict(memory_allocated=100, max_memory_allocated=350)
    for name in ("synchronize", "reset_peak_memory_stats", *values):
        monkeypatch.setattr(
            torch.cuda, name, lambda device, name=name: asked.append(device) or values.get(name)
        )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert peak_memory(lambda: None, device="cuda:1") == 250
    synchronise("cuda:1")
    assert asked == ["cuda:1"] * 6
    synchronise("cpu")
    assert len(asked) == 6


def test_rows_of_the_speed_table() -> None:
    rows = speed.forward(SMALL, repeats=1)
    assert [row["model"] for row in rows] == ["plain", "TransXNet-T", "TransXNet-T fused"]
    assert rows[0]["times_plain"] == 1
    assert all(row["seconds"] > 0 for row in rows)
    training = speed.training_step(SMALL, 2, repeats=1)
    assert all(row["seconds"] > 0 and row["peak_mib"] > 0 for row in training)
    growth = speed.growth((64, 128), repeats=1)
    assert growth[1]["peak_mib"] > growth[0]["peak_mib"]


def test_errors_against_float64() -> None:
    errors = {row["precision"]: row["largest"] for row in speed.errors(SMALL)}
    assert errors["float64"] < 1e-12
    assert errors["float32"] < 1e-3
    assert errors["float32, fused"] < 1e-3
    assert errors["float16 autocast"] < errors["bfloat16 autocast"] < 0.2


def test_rows_of_fused_models() -> None:
    rows = fused_speed(64, repeats=1)
    assert len({row["model"] for row in rows}) == 3
    assert all(row["seconds"] > 0 for row in rows)
    assert all(row["error"] < 1e-4 and row["error_float64"] < 1e-10 for row in rows)
    assert any(row["error"] > 0 for row in rows if row["form"] == "fused")


def test_fitted_exponent() -> None:
    rows = [{"pixels": n, "seconds": 3e-6 * n**1.5} for n in (100, 1000, 5000)]
    assert speed.fitted_exponent(rows, "seconds") == pytest.approx(1.5)
