"""The leaderboard: nothing without an origin, no two origins in a column."""

import csv
import json
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import leaderboard
from mmhybrid.engine.runner.results import (
    accuracy_rows,
    check_accuracy,
    checkpoint_origin,
    read_results,
    write_results,
    write_test_result,
    write_training_result,
)
from mmhybrid.engine.runner.run_config import UserError

PAPER = dict(kind="paper", source="https://arxiv.org/abs/2310.19380", where="table </script> 1")
TRAINED = dict(kind="trained", command="python train.py", seed=0, commit="abc", device="a CPU")
CONVERTED = dict(
    kind="converted", checkpoint="t.pth", sha256="0" * 64, command="c", commit="abc", device="d"
)


def accuracy(model: str, value: float, origin: dict = PAPER, **more: object) -> dict:
    return dict(
        model=model, dataset="ImageNet-1K", metric="top-1", value=value, origin=origin, **more
    )


def speed(model: str, latency: float, **more: object) -> dict:
    row = dict(model=model, spec=model, mode="eager", size=[512, 512], batch_size=2)
    return dict(row, parameters=2e6, latency=latency, training_memory=2**30 * latency, **more)


ROWS = dict(
    accuracy=[
        accuracy("TransXNet-T", 81.6, config="transxnet_t_imagenet"),
        accuracy("TransXNet-T", 81.0, TRAINED, config="transxnet_t_imagenet"),
        accuracy("TransXNet-T", 81.2, TRAINED | dict(seed=1), config="transxnet_t_imagenet"),
        accuracy("TransXNet-T", 81.5, CONVERTED, config="transxnet_t_imagenet"),
        accuracy("Swin-T", 81.3, method="by its authors"),
        accuracy("ConvNeXt-T", 82.1),
    ],
    benchmark=[
        speed("TransXNet-T", 0.3),
        speed("Swin-T", 0.4),
        speed("ConvNeXt-T", 0.2),
        dict(speed("ResNet-50", 0.1), error="training: out of memory"),
    ],
)
COSTS = {"transxnet_t_imagenet": dict(parameters=12_834_808, flops=1_766_000_000)}


@pytest.fixture
def results(tmp_path: Path) -> dict[str, list]:
    made = dict(command="c", commit="1", date="today", device="d", torch="2")
    write_results(tmp_path / "a.json", "accuracy", ROWS["accuracy"])
    write_results(tmp_path / "b.json", "benchmark", ROWS["benchmark"], made=made)
    (tmp_path / "other.json").write_text('{"forward": []}')  # of another tool: left out
    return read_results([tmp_path])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(origin=None), "names no origin"),
        (dict(origin=dict(kind="somebody")), "names no origin"),
        (dict(origin=dict(kind="paper", source="x")), "does not say: where"),
        (dict(origin=TRAINED | dict(commit="unknown")), "does not say: commit"),
        (dict(origin={k: v for k, v in TRAINED.items() if k != "seed"}), "does not say: seed"),
        (dict(origin=CONVERTED | dict(sha256="")), "does not say: sha256"),
        (dict(value="81.6"), "has no number"),
        (dict(value=816), "is no percentage"),
        (dict(accuracy=1), "has unknown accuracy"),
    ],
)
def test_nothing_without_an_origin_gets_in(change: dict, message: str, tmp_path: Path) -> None:
    row = accuracy("TransXNet-T", 81.6) | change
    with pytest.raises(UserError, match=message):
        check_accuracy(row)
    with pytest.raises(UserError, match=message):
        write_results(tmp_path / "rows.json", "accuracy", [row])
    assert not (tmp_path / "rows.json").exists()
    (tmp_path / "rows.json").write_text(json.dumps(dict(kind="accuracy", rows=[row])))
    with pytest.raises(UserError, match=rf"rows\.json: .*{message}"):
        read_results([tmp_path])


def test_a_row_without_the_key_origin_is_an_error() -> None:
    row = accuracy("TransXNet-T", 81.6)
    del row["origin"]
    with pytest.raises(UserError, match="lacks origin"):
        check_accuracy(row)


def test_seed_zero_is_a_seed() -> None:
    check_accuracy(accuracy("TransXNet-T", 81.0, TRAINED))


def test_origins_have_columns_of_their_own(results: dict) -> None:
    board = leaderboard.leaderboard(results, COSTS)
    table = board["tables"][0]
    assert [column["title"] for column in table["columns"]] == [
        "model",
        "method",
        "parameters, M",
        "FLOPs, G",
        "top-1, the paper's",
        "top-1, published weights, evaluated here",
        "top-1, trained here",
        "origin",
    ]
    ours, swin, _ = table["rows"]
    assert ours["top-1/paper"] == 81.6
    assert ours["top-1/converted"] == 81.5
    assert ours["top-1/trained"] == pytest.approx(81.1)  # two seeds
    assert ours["sources"] == "[1] [2] [3] [4]"
    assert ours["flops"] == 1.766
    assert "top-1/trained" not in swin
    assert len(board["origins"]) == 4  # both peers name the paper that TransXNet's row names
    assert "seed 1" in board["origins"][2]
    series = {point["series"] for point in board["points"] if point["model"] == "TransXNet-T"}
    assert len(series) == 3


TTA = dict(config="transxnet_t_imagenet", note="test-time augmentation")


def test_only_runs_that_differ_in_their_seed_are_averaged() -> None:
    rows = [
        *ROWS["accuracy"][:4],
        accuracy("TransXNet-T", 81.7, CONVERTED, **TTA),
        accuracy("TransXNet-T", 81.4, TRAINED, **TTA),
        accuracy("TransXNet-T", 81.9, CONVERTED, config="transxnet_t_imagenet"),  # corrected
    ]
    board = leaderboard.leaderboard(dict(accuracy=rows, benchmark=[]), COSTS)
    plain, augmented = board["tables"][0]["rows"]
    assert plain["top-1/trained"] == 81.1
    assert plain["top-1/converted"] == 81.9
    assert augmented["method"] == "test-time augmentation"
    assert (augmented["top-1/trained"], augmented["top-1/converted"]) == (81.4, 81.7)
    shown = [(point["method"], point["value"]) for point in board["points"]]
    assert shown == [
        ("", 81.6),
        ("", 81.1),
        ("", 81.9),
        ("test-time augmentation", 81.7),
        ("test-time augmentation", 81.4),
    ]


def test_speed_is_tabled_with_how_it_was_measured(results: dict) -> None:
    table = leaderboard.leaderboard(results, COSTS)["tables"][-1]
    assert table["title"] == "Speed and memory at 512x512"
    assert "commit 1, today: d, PyTorch 2" in table["note"]
    assert table["rows"][0]["latency"] == 300
    assert table["rows"][0]["throughput"] == pytest.approx(2 / 0.3)
    assert table["rows"][3]["mode"] == "eager (training: out of memory)"
    assert [row["ours"] for row in table["rows"]] == [True, False, False, False]


def test_every_figure_and_its_origin_are_in_the_csv(results: dict) -> None:
    lines = list(csv.DictReader(leaderboard.to_csv(results, COSTS).splitlines()))
    assert len(lines) == len(ROWS["accuracy"])
    for line, row in zip(lines, ROWS["accuracy"], strict=True):
        assert float(line["value"]) == row["value"]
        assert line["origin"] == row["origin"]["kind"]
        assert all(line[key] == str(value) for key, value in row["origin"].items() if key != "kind")


def test_metrics_of_an_evaluation_become_rows() -> None:
    metrics = {"coco/bbox_mAP": 0.445, "coco/segm_mAP": 0.407, "coco/bbox_mAP_s": -1, "loss": 1}
    rows = accuracy_rows(metrics, model="TransXNet-T", dataset="COCO", origin=TRAINED)
    assert [(row["metric"], row["value"]) for row in rows] == [("box AP", 44.5), ("mask AP", 40.7)]
    for row in rows:
        check_accuracy(row)
    (row,) = accuracy_rows({"mIoU": 45.5}, model="m", dataset="ADE20K", origin=TRAINED)
    assert (row["metric"], row["value"]) == ("mIoU", 45.5)


def test_published_weights_are_told_by_their_digest(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"abc")
    origin = checkpoint_origin(tmp_path / "weights.pth", published=True)
    assert origin["kind"] == "converted"
    assert origin["sha256"].startswith("ba7816bf")
    assert checkpoint_origin("https://example.com/weights.pth")["kind"] == "converted"
    unknown = checkpoint_origin(tmp_path / "weights.pth")
    assert unknown == origin | dict(kind="evaluated")
    row = accuracy("TransXNet-T", 81.5, unknown)
    check_accuracy(row)
    assert leaderboard.describe_origin(row).startswith("a checkpoint evaluated here: ")


def fake_runner(folder: Path, checkpoint: str = "") -> SimpleNamespace:
    loader = SimpleNamespace(dataset=[])
    return SimpleNamespace(
        log_dir=str(folder),
        work_dir=str(folder),
        seed=7,
        rank=0,
        model=torch.nn.Linear(1, 1),
        train_dataloader=loader,
        test_dataloader=loader,
        _load_from=checkpoint,
    )


@pytest.mark.train
def test_training_and_testing_leave_results(tmp_path: Path) -> None:
    config = "configs/mask_rcnn_transxnet_t_coco.py"
    (tmp_path / "vis_data").mkdir()
    log = [{"loss": 1.0, "step": 5}, {"coco/bbox_mAP": 0.1, "step": 5}]
    log.append({"coco/bbox_mAP": 0.2, "coco/segm_mAP": 0.15, "step": 9})
    (tmp_path / "vis_data" / "scalars.json").write_text("\n".join(map(json.dumps, log)))
    assert write_training_result(fake_runner(tmp_path), config) == tmp_path / "result.json"
    first, second = read_results([tmp_path / "result.json"])["accuracy"]
    assert (first["model"], first["method"], first["dataset"]) == (
        "TransXNet-T",
        "Mask R-CNN",
        "COCO",
    )
    assert (first["metric"], first["value"], second["value"]) == ("box AP", 20.0, 15.0)
    assert first["origin"]["kind"] == "trained"
    assert first["origin"]["seed"] == 7

    # Weights beside a training's result were trained here; of others nobody knows.
    other = tmp_path / "other"
    other.mkdir()
    for folder, kind in ((tmp_path, "trained"), (other, "evaluated")):
        (folder / "epoch_1.pth").write_bytes(b"weights")
        runner = fake_runner(folder, str(folder / "epoch_1.pth"))
        out = folder / "tested.json"
        write_test_result(str(out), {"coco/bbox_mAP": 0.3}, runner, config, quick=True)
        (row,) = read_results([out])["accuracy"]
        assert "note" not in row
        assert row["origin"]["kind"] == kind
        assert row["dataset"] == "COCO, quick run"
    write_test_result(str(out), {"mIoU": 0.3}, runner, config, tta=True, published=True)
    (row,) = read_results([out])["accuracy"]
    assert (row["note"], row["origin"]["kind"]) == ("test-time augmentation", "converted")
    with pytest.raises(UserError, match="none of these metrics is for a table: time"):
        write_test_result(str(out), {"time": 1.0}, runner, config)
    assert write_training_result(fake_runner(other), config) is None


def run_tool(monkeypatch: pytest.MonkeyPatch, root: Path, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["leaderboard.py", *arguments])
    monkeypatch.syspath_prepend(root / "tools")
    runpy.run_path(str(root / "benchmarks" / "make_leaderboard.py"), run_name="__main__")


def test_tool_and_what_the_project_publishes(root: Path, monkeypatch, tmp_path: Path) -> None:
    """The files in docs/ are those that the files in results/ give."""
    run_tool(monkeypatch, root, "--out", str(tmp_path))
    for name in ("leaderboard.md", "leaderboard.csv"):
        again = "python benchmarks/make_leaderboard.py"
        assert (tmp_path / name).read_text() == (root / "docs" / name).read_text(), again


def test_tool_says_what_is_wrong(root: Path, monkeypatch, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"error: there is no .*nothing\.json"):
        run_tool(monkeypatch, root, "--results", str(tmp_path / "nothing.json"))
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(SystemExit, match="holds no results"):
        run_tool(monkeypatch, root, "--results", str(tmp_path / "other.json"))


def test_figures_of_the_papers(root: Path, shared: Path) -> None:
    """Each accuracy that the specifications give for TransXNet is entered, and is found there."""
    text = (shared / "specs" / "transxnet.md").read_text()
    rows = read_results([root / "results" / "paper_figures.json"])["accuracy"]
    ours = [row for row in rows if row["model"].startswith("TransXNet")]
    assert len(ours) == 4 + 3 + 6 + 3
    assert all(f"{row['value']:.1f}" in text for row in ours)
    assert {row["origin"]["kind"] for row in rows} == {"paper"}
    others = {
        name: sum(row["model"].startswith(name) for row in rows) for name in ("DMFormer", "X")
    }
    assert others == {"DMFormer": 2, "X": 3}
