"""Results and the leaderboard: nothing without an origin, no two origins in a column."""

import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import leaderboard
from benchmarks.__main__ import main
from benchmarks.results import check_row, read_results, rows_of_run
from mmhybrid.engine.runner import results as writing
from mmhybrid.engine.runner.results import write_json, write_test_result, write_training_result
from mmhybrid.errors import UserError

PAPER = dict(type="paper", source="https://arxiv.org/abs/2310.19380", where="table </script> 1")
HERE = dict(command="python train.py", commit="abc", device="a CPU")
TRAINED = dict(HERE, type="trained", seed=0)  # which is a seed
CONVERTED = dict(HERE, type="converted", checkpoint="t.pth", sha256="0" * 64)


def accuracy(model: str, value: float, origin: dict = PAPER, **more: object) -> dict:
    row = dict(model=model, dataset="ImageNet-1K", metric="top-1", value=value, origin=origin)
    return row | more


def speed(model: str, latency: float, **more: object) -> dict:
    row = dict(model=model, spec=model, mode="eager", size=[512, 512], batch_size=2)
    return dict(row, parameters=2e6, latency=latency, training_memory=2**30 * latency, **more)


def ours(value: float, origin: dict = PAPER, **more: object) -> dict:
    return accuracy("TransXNet-T", value, origin, config="transxnet_t_imagenet", **more)


OURS = [ours(81.6), ours(81.0, TRAINED), ours(81.2, TRAINED | dict(seed=1)), ours(81.5, CONVERTED)]
PEERS = [accuracy("Swin-T", 81.3, method="by its authors"), accuracy("ConvNeXt-T", 82.1)]
SPEEDS = [speed("TransXNet-T", 0.3), speed("Swin-T", 0.4), speed("ConvNeXt-T", 0.2)]
SPEEDS.append(speed("ResNet-50", 0.1, error="training: out of memory"))
COSTS = {"transxnet_t_imagenet": dict(parameters=12_834_808, flops=1_766_000_000)}


@pytest.fixture
def results(tmp_path: Path) -> dict[str, list]:
    made = dict(command="c", commit="1", date="today", device="d", torch="2")
    write_json(tmp_path / "a.json", dict(type="accuracy", rows=OURS + PEERS))
    write_json(tmp_path / "b.json", dict(type="benchmark", rows=SPEEDS, made=made))
    (tmp_path / "other.json").write_text('{"forward": []}')  # of another tool: left out
    return read_results([tmp_path])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(origin=None), "names no origin"),
        (dict(origin=dict(type="somebody")), "names no origin"),
        (dict(origin=dict(type="paper", source="x")), "does not say: where"),
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
    write_json(tmp_path / "rows.json", dict(type="accuracy", rows=[row]))
    with pytest.raises(UserError, match=rf"rows\.json: .*{message}"):
        read_results([tmp_path])


def test_a_row_without_the_key_origin_is_an_error() -> None:
    with pytest.raises(UserError, match="lacks origin"):
        check_row(dict(model="TransXNet-T", dataset="COCO", metric="box AP", value=81.6))


def test_results_of_version_0_1_are_read(results: dict, tmp_path: Path) -> None:
    for file in tmp_path.glob("[ab].json"):
        file.write_text(file.read_text().replace('"type":', '"kind":'))
    assert read_results([tmp_path]) == results


def test_origins_have_columns_of_their_own(results: dict) -> None:
    board = leaderboard.leaderboard(results, COSTS)
    table = board["tables"][0]
    assert "; ".join(column["title"] for column in table["columns"]) == (
        "model; method; parameters, M; FLOPs, G; top-1, the paper's; "
        "top-1, published weights, evaluated here; top-1, trained here; origin"
    )
    first, swin, _ = table["rows"]
    assert (first["top-1/paper"], first["top-1/converted"]) == (81.6, 81.5)
    assert first["top-1/trained"] == pytest.approx(81.1)  # two seeds
    assert (first["sources"], first["flops"]) == ("[1] [2] [3] [4]", 1.766)
    assert "top-1/trained" not in swin
    assert len(board["origins"]) == 4  # both peers name the paper that TransXNet's row names
    assert "seed 1" in board["origins"][2]
    series = {point["series"] for point in board["points"] if point["model"] == "TransXNet-T"}
    assert len(series) == 3


def test_only_runs_that_differ_in_their_seed_are_averaged() -> None:
    tta = "test-time augmentation"
    others = [ours(81.7, CONVERTED, note=tta), ours(81.4, TRAINED, note=tta)]
    rows = [*OURS, *others, ours(81.9, CONVERTED)]  # the last is a correction
    board = leaderboard.leaderboard(dict(accuracy=rows, benchmark=[]), COSTS)
    plain, augmented = board["tables"][0]["rows"]
    assert (plain["top-1/trained"], plain["top-1/converted"]) == (81.1, 81.9)
    assert augmented["method"] == tta
    assert (augmented["top-1/trained"], augmented["top-1/converted"]) == (81.4, 81.7)
    shown = [(point["method"], point["value"]) for point in board["points"]]
    assert shown == [("", 81.6), ("", 81.1), ("", 81.9), (tta, 81.7), (tta, 81.4)]


def test_speed_is_tabled_with_how_it_was_measured(results: dict) -> None:
    table = leaderboard.leaderboard(results, COSTS)["tables"][-1]
    assert table["title"] == "Speed and memory at 512x512"
    assert "commit 1, today: d, PyTorch 2" in table["note"]
    first, *_, last = table["rows"]
    assert (first["latency"], first["throughput"]) == (300, pytest.approx(2 / 0.3))
    assert last["mode"] == "eager (training: out of memory)"
    assert [row["ours"] for row in table["rows"]] == [True, False, False, False]
    assert not leaderboard.is_ours("MobileViT-S")  # of which a config here makes a detector


def test_every_figure_and_its_origin_are_in_the_csv(results: dict) -> None:
    lines = list(csv.DictReader(leaderboard.to_csv(results, COSTS).splitlines()))
    for line, row in zip(lines, OURS + PEERS, strict=True):
        assert float(line["value"]) == row["value"]
        assert line["origin"] == row["origin"]["type"]
        assert all(line[key] == str(value) for key, value in row["origin"].items() if key != "type")


def test_metrics_of_an_evaluation_become_rows() -> None:
    metrics = {"coco/bbox_mAP": 0.445, "coco/segm_mAP": 0.407, "coco/bbox_mAP_s": -1, "loss": 1}
    run = dict(config="mask_rcnn_transxnet_t_coco", dataset="CocoDataset", origin=TRAINED)
    rows = rows_of_run(dict(run, metrics=metrics))
    assert [(row["metric"], row["value"]) for row in rows] == [("box AP", 44.5), ("mask AP", 40.7)]
    for row in rows:
        check_row(row)
    (row,) = rows_of_run(dict(run, config="my_own", metrics={"mIoU": 45.5}, quick=True))
    shown = (row["model"], row["dataset"], row["metric"], row["value"])
    assert shown == ("my_own", "CocoDataset, quick run", "mIoU", 45.5)
    with pytest.raises(UserError, match="none of these metrics is for a table: time"):
        rows_of_run(dict(run, metrics={"time": 1.0}))


def fake_runner(folder: Path, checkpoint: str = "", last: str = "") -> SimpleNamespace:
    runner = SimpleNamespace(log_dir=folder, work_dir=folder, seed=7, rank=0, _load_from=checkpoint)
    runner.train_dataloader = runner.test_dataloader = SimpleNamespace(dataset=[])
    runner.model = torch.nn.Linear(1, 1)
    runner.message_hub = SimpleNamespace(runtime_info=dict(last_ckpt=folder / last) if last else {})
    return runner


CONFIG = "configs/mask_rcnn_transxnet_t_coco.py"


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder with a training's checkpoint and result."""
    (tmp_path / "vis_data").mkdir()
    log = [{"loss": 1.0, "step": 5}, {"coco/bbox_mAP": 0.1, "step": 5}]
    log.append({"coco/bbox_mAP": 0.2, "coco/segm_mAP": 0.15, "step": 9})
    (tmp_path / "vis_data" / "scalars.json").write_text("\n".join(map(json.dumps, log)))
    (tmp_path / "epoch_1.pth").write_bytes(b"trained")
    runner = fake_runner(tmp_path, last="epoch_1.pth")
    assert write_training_result(runner, CONFIG) == tmp_path / "result.json"
    return tmp_path


def evaluated(checkpoint: Path | str, out: Path, **options: bool) -> dict:
    """The row of an evaluation."""
    runner = fake_runner(out.parent, str(checkpoint))
    metrics = {"coco/bbox_mAP": np.float32(0.3), "confusion_matrix/result": torch.eye(2)}
    write_test_result(str(out), metrics, runner, CONFIG, **options)
    (row,) = read_results([out])["accuracy"]
    return row


def test_training_leaves_a_result(trained: Path) -> None:
    first, second = read_results([trained / "result.json"])["accuracy"]
    assert (first["model"], first["method"]) == ("TransXNet-T", "Mask R-CNN")
    assert (first["dataset"], first["metric"], first["value"]) == ("COCO", "box AP", 20.0)
    assert second["value"] == 15.0
    assert (first["origin"]["type"], first["origin"]["seed"]) == ("trained", 7)
    (trained / "other").mkdir()
    assert write_training_result(fake_runner(trained / "other"), CONFIG) is None


def test_only_a_checkpoint_of_the_training_has_its_origin(trained: Path) -> None:
    out = trained / "tested.json"
    row = evaluated(trained / "epoch_1.pth", out, quick=True)
    assert row["origin"] == read_results([trained / "result.json"])["accuracy"][0]["origin"]
    assert row["dataset"] == "COCO, quick run"
    assert "note" not in row
    digest = hashlib.sha256(b"trained").hexdigest()  # another of this training has its origin too
    assert json.loads(out.read_text())["sha256"] == digest
    (trained / "foreign.pth").write_bytes(b"somebody else's")
    assert evaluated(trained / "foreign.pth", out)["origin"]["type"] == "evaluated"
    (trained / "result.json").write_text("[]")  # of another program
    assert evaluated(trained / "epoch_1.pth", out)["origin"]["type"] == "evaluated"


def test_the_origin_of_a_checkpoint_has_its_digest(tmp_path: Path) -> None:
    weights, out = tmp_path / "weights.pth", tmp_path / "a.json"
    weights.write_bytes(b"abc")
    row = evaluated(weights, out, published=True, tta=True)
    assert (row["note"], row["origin"]["type"]) == ("test-time augmentation", "converted")
    assert row["origin"]["sha256"].startswith("ba7816bf")
    unknown = evaluated(weights, out)
    assert unknown["origin"] == row["origin"] | dict(type="evaluated")
    assert leaderboard.describe_origin(unknown).startswith("a checkpoint evaluated here: ")
    row = evaluated("https://example.com/weights.pth", out)
    assert (row["origin"]["type"], row["origin"]["sha256"]) == ("converted", "not kept")


def test_the_commit_is_of_this_project_alone(tmp_path: Path, monkeypatch) -> None:
    """And not of the repository in which somebody has the environment with this package."""

    def git(*words: str) -> str:
        who = ["-c", "user.name=n", "-c", "user.email=e"]
        command = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.check_output(command, text=True).strip()

    site = tmp_path / "venv" / "site-packages"
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "theirs")
    for folder in (site, tmp_path):
        (folder / "mmhybrid").mkdir(parents=True)
        for file in ("mmhybrid/version.py", "setup.py"):
            (folder / file).touch()
        monkeypatch.setattr(writing, "ROOT", folder)
        assert writing.commit().startswith("release ")  # not tracked
    git("add", ".")
    git("commit", "-q", "-m", "all")
    assert writing.commit() == git("rev-parse", "--short=12", "HEAD")  # a checkout of the project
    (tmp_path / "mmhybrid" / "version.py").write_text("changed")
    assert writing.commit().endswith("+")
    monkeypatch.setattr(writing, "ROOT", site)  # tracked, but not at the top
    assert writing.commit().startswith("release ")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", "leaderboard", *map(str, arguments)])
    main()


def test_command_and_what_the_project_publishes(root: Path, monkeypatch, tmp_path: Path) -> None:
    """The files in docs/ are those that the files in results/ give."""
    run(monkeypatch, "--out", tmp_path)
    assert (tmp_path / "leaderboard.html").is_file()
    for name in ("leaderboard.md", "leaderboard.csv"):
        again = "python -m benchmarks leaderboard"
        assert (tmp_path / name).read_text() == (root / "docs" / name).read_text(), again


def test_a_result_joins_by_lying_in_the_folder(trained: Path, monkeypatch, tmp_path) -> None:
    """What `tools/test.py --result` wrote, and what `tools/publish.py` made a folder of."""
    evaluated(trained / "epoch_1.pth", tmp_path / "results" / "mine.json")
    record = json.loads((tmp_path / "results" / "mine.json").read_text())
    record["config"] = "retinanet_transxnet_t_coco"
    for name, result in (("published", record), ("never_evaluated", None)):
        about = dict(model_type="mmhybrid", type="detection", result=result)
        write_json(tmp_path / "results" / name / "config.json", about)
    run(monkeypatch, "--results", tmp_path / "results", "--out", tmp_path / "docs")
    lines = list(csv.DictReader((tmp_path / "docs" / "leaderboard.csv").read_text().splitlines()))
    mine = [line for line in lines if line["origin"] == "trained"]
    assert [(line["method"], float(line["value"])) for line in mine] == [
        ("Mask R-CNN", 30.0),
        ("RetinaNet", 30.0),
    ]


def test_command_says_what_is_wrong(monkeypatch, tmp_path: Path) -> None:
    file = tmp_path / "nothing.json"
    with pytest.raises(SystemExit, match=r"error: there is no .*nothing\.json"):
        run(monkeypatch, "--results", file)
    file.write_text("[]")
    with pytest.raises(SystemExit, match="holds no results"):
        run(monkeypatch, "--results", file)


def test_figures_of_the_papers(root: Path, shared: Path) -> None:
    """Each accuracy that the specifications give for TransXNet is entered, and is found there."""
    text = (shared / "specs" / "transxnet.md").read_text()
    rows = read_results([root / "results" / "paper_figures.json"])["accuracy"]
    ours = [row for row in rows if row["model"].startswith("TransXNet")]
    assert len(ours) == 4 + 3 + 6 + 3
    assert all(f"{row['value']:.1f}" in text for row in ours)
    assert {row["origin"]["type"] for row in rows} == {"paper"}
    models = [row["model"] for row in rows]
    assert [sum(model.startswith(name) for model in models) for name in ("DMFormer", "X")] == [2, 3]
