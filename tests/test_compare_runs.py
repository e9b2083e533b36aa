"""Several runs side by side: every run is in the table, with all that it did."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest


def write_log(folder: Path, time: str, lines: list[dict], seed: int | None = None) -> None:
    """What MMEngine leaves of a run in its work folder."""
    log = folder / time / "vis_data"
    log.mkdir(parents=True)
    (log / "scalars.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (log / "config.py").write_text(f"randomness = dict(seed={seed})\n")


def losses(*steps: int, value: float = 1.0) -> list[dict]:
    return [dict(loss=value, step=step) for step in steps]


def miou(value: float, step: int = 1) -> dict:
    return dict(mIoU=value, step=step)


@pytest.fixture
def compare(monkeypatch, tmp_path: Path, run_tool) -> Callable[..., list[str]]:
    """Returns the lines of the table that the tool writes, without its rule and padding."""

    def run(*words: str) -> list[str]:
        run_tool("compare_runs.py", *words, "--out", "out")
        assert Path("out.png").stat().st_size > 1000
        head, _, *rows = Path("out.md").read_text().splitlines()
        return [" ".join(line.split()) for line in (head, *rows)]

    monkeypatch.chdir(tmp_path)
    return run


def test_a_row_for_each_seed(compare, tmp_path: Path) -> None:
    for name, value in (("plain", 10), ("dw", 20)):
        for seed in (0, 1):
            lines = [*losses(1, 2), miou(value + seed)]
            write_log(tmp_path / f"{name}_{seed}", "1", lines, seed)
    assert compare("plain=plain_*", "shortcut=dw_*") == [
        "| seed | plain, mIoU | shortcut, mIoU |",
        "| 0 | 10.00 | 20.00 |",
        "| 1 | 11.00 | 21.00 |",
        "| mean ± standard deviation | 10.50 ± 0.71 | 20.50 ± 0.71 |",
    ]


def test_a_row_for_each_run_whose_seed_does_not_tell(compare, tmp_path: Path) -> None:
    for folder, seed in (("a1", None), ("a2", None), ("b1", 7), ("b2", 7), ("b3", 8)):
        write_log(tmp_path / folder, "1", [*losses(1), miou(int(folder, 16))], seed)
    assert compare("a=a*", "b=b*") == [
        "| run | a, mIoU | b, mIoU |",
        "| a1 | 161.00 | |",
        "| a2 | 162.00 | |",
        "| b1 | | 177.00 |",
        "| b2 | | 178.00 |",
        "| 8 | | 179.00 |",
        "| mean ± standard deviation | 161.50 ± 0.71 | 178.00 ± 1.00 |",
    ]


def test_columns_are_those_of_all_runs(compare, tmp_path: Path) -> None:
    write_log(tmp_path / "a", "1", losses(1), 0)  # not evaluated yet
    write_log(tmp_path / "b", "1", [*losses(1), miou(50)], 1)
    write_log(tmp_path / "c", "1", [*losses(1), dict(miou(60), aAcc=90)], 2)
    assert compare("run=[abc]")[0] == "| seed | run, mIoU | run, pixel accuracy |"


def test_what_came_before_resuming_is_there(compare, tmp_path: Path) -> None:
    # It broke at 50 and was resumed from the checkpoint of 40, at first in vain.
    first = [*losses(10, 20), miou(1), *losses(30, 40), miou(2), *losses(50, value=9)]
    write_log(tmp_path / "run", "20250101_1", first)
    write_log(tmp_path / "run", "20250101_2", [])
    write_log(tmp_path / "run", "20250101_3", [*losses(50, 60, value=0.5), miou(3)])
    compare("run=run")
    (run,) = json.loads((tmp_path / "out.json").read_text())
    assert run["losses"] == [[10, 1], [20, 1], [30, 1], [40, 1], [50, 0.5], [60, 0.5]]
    assert run["metrics"] == [[20, {"mIoU": 1}], [40, {"mIoU": 2}], [60, {"mIoU": 3}]]


@pytest.mark.parametrize(("out", "name"), [("lr0.1", "lr0.1"), ("v1.5.png", "v1.5")])
def test_files_have_the_whole_name(out: str, name: str, tmp_path, run_tool, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_log(tmp_path / "run", "1", [*losses(1), miou(1)])
    run_tool("compare_runs.py", "run=run", "--out", f"results/{out}")
    files = sorted(one.name for one in (tmp_path / "results").iterdir())
    assert files == [f"{name}.{end}" for end in ("json", "md", "png")]


def test_shares_have_three_decimals(compare, tmp_path: Path) -> None:
    for seed, value in enumerate((0.3851, 0.3904)):
        metrics = {"coco/bbox_mAP": value, "accuracy/top1": 0.5 + seed, "step": 1}
        write_log(tmp_path / f"run_{seed}", "1", [*losses(1), metrics], seed)
    assert compare("run=run_*") == [
        "| seed | run, box AP | run, top-1 accuracy |",
        "| 0 | 0.385 | 0.50 |",
        "| 1 | 0.390 | 1.50 |",
        "| mean ± standard deviation | 0.388 ± 0.004 | 1.00 ± 0.71 |",
    ]


def test_what_is_no_number_is_shown(compare, tmp_path: Path) -> None:
    for seed, value in enumerate((float("nan"), 50.0)):
        write_log(tmp_path / f"run_{seed}", "1", [*losses(1), miou(value)], seed)
    assert compare("run=run_*")[-1] == "| mean ± standard deviation | nan ± nan |"


def test_metrics_without_a_headline_are_shown(compare, tmp_path: Path) -> None:
    metrics = {"pascal_voc/mAP": 0.5, "mAcc": 60.0, "time": 1.0, "data_time": 1.0, "step": 1}
    write_log(tmp_path / "run", "1", [*losses(1), metrics | dict(what="text")], 0)
    assert compare("run=run") == [
        "| seed | run, pascal_voc/mAP | run, mAcc |",
        "| 0 | 0.500 | 60.00 |",
    ]
