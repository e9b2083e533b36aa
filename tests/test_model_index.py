"""The model index: every config in it, none dangling, and its figures those of what is built."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.config_names import parse_config_name
from benchmarks.model_index import COLLECTIONS, cost_of, make_index, read_costs
from mmhybrid.engine.runner.results import read_results

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
AGAIN = "python benchmarks/make_leaderboard.py --index"


def read(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text())


def entries() -> dict[str, dict]:
    """All models of the index, by name."""
    files = read("model-index.yml")["Import"]
    return {entry["Name"]: entry for file in files for entry in read(file)["Models"]}


def test_every_config_is_in_and_none_dangles() -> None:
    index = entries()
    assert sorted(index) == [config.stem for config in CONFIGS], AGAIN
    assert all((ROOT / entry["Config"]).is_file() for entry in index.values())
    assert sum(len(read(file)["Models"]) for file in read("model-index.yml")["Import"]) == len(
        index
    )


def test_collections_are_whole() -> None:
    for file in read("model-index.yml")["Import"]:
        content = read(file)
        (collection,) = content["Collections"]
        assert (ROOT / collection["README"]).is_file()
        assert (ROOT / collection["Code"]["URL"]).is_file()
        assert collection["Paper"]["URL"].startswith("https://arxiv.org/abs/")
        assert {entry["In Collection"] for entry in content["Models"]} == {collection["Name"]}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_figures_are_those_of_what_is_built(config: Path) -> None:
    about = entries()[config.stem]["Metadata"]
    cost = cost_of(config)
    assert about["Parameters"] == cost["parameters"], AGAIN
    assert about["FLOPs"] == cost["flops"], AGAIN
    assert about["Input Size"] == cost["size"], AGAIN


def test_accuracies_are_those_of_the_results() -> None:
    rows = read_results([ROOT / "results"])["accuracy"]
    index = entries()
    for row in rows:
        if row.get("config") in index and row["origin"]["kind"] == "paper":
            entry = index[row["config"]]
            if not entry["Metadata"]["Results From"].startswith("the paper's"):
                continue
            found = {k: v for one in entry["Results"] for k, v in one["Metrics"].items()}
            metric = row["metric"].replace("top-1", "Top 1 Accuracy")
            assert found[metric] == row["value"], AGAIN
    assert all(("Results" in e) == ("Results From" in e["Metadata"]) for e in index.values())


def test_what_was_trained_here_comes_before_what_a_paper_says() -> None:
    origins = [
        dict(kind="paper", source="s", where="w"),
        dict(kind="trained", command="python train.py", seed=0, commit="c", device="d"),
    ]
    rows = [
        dict(dataset="ADE20K", metric="mIoU", value=value, config="upernet_x", origin=origin)
        for value, origin in zip((50.0, 40.0), origins, strict=True)
    ]
    # A quick run is of other data than the config.
    rows.append(rows[1] | dict(dataset="ADE20K, quick run", value=99.0))
    name = "upernet_dmformer_s_ade20k"
    rows = [row | dict(config=name) for row in rows]
    files = make_index({name: dict(parameters=1, flops=2, size=[3, 4])}, rows)
    (entry,) = files["configs/metafiles/dmformer.yml"]["Models"]
    assert entry["Results"][0]["Metrics"] == {"mIoU": 40.0}
    assert entry["Metadata"]["Results From"] == "trained here: python train.py"


def test_several_runs_are_their_mean_as_in_the_leaderboard() -> None:
    name = "upernet_dmformer_s_ade20k"
    origin = dict(kind="trained", command="python train.py", commit="c", device="d")
    row = dict(model="m", dataset="ADE20K", metric="mIoU", config=name)
    rows = [dict(row, value=40 + seed, origin=dict(origin, seed=seed)) for seed in (0, 1, 2)]
    rows.append(rows[0] | dict(value=99.0, note="test-time augmentation"))
    files = make_index({name: dict(parameters=1, flops=2, size=[3, 4])}, rows)
    (entry,) = files["configs/metafiles/dmformer.yml"]["Models"]
    assert entry["Results"][0]["Metrics"] == {"mIoU": 41}
    told = entry["Metadata"]["Results From"]
    assert told == "trained here, mean of 3 runs: python train.py"


def test_names_of_configs_are_understood() -> None:
    name = parse_config_name("cascade_mask_rcnn_dw_swin_t_coco")
    assert (name.method, name.model, name.dataset) == ("Cascade Mask R-CNN", "DW-Swin-T", "COCO")
    assert name.task == "Object Detection"
    name = parse_config_name("dw_cait_xxs12_tiny_imagenet")
    assert (name.method, name.model, name.dataset) == ("", "DW-CaiT-XXS12", "Tiny-ImageNet")
    assert parse_config_name("my_own").model == "my_own"
    assert all(parse_config_name(config.stem).dataset for config in CONFIGS)
    assert set(read_costs(ROOT)) == {config.stem for config in CONFIGS}
    assert len(COLLECTIONS) == 4


def setup(folder: Path, *words: object) -> None:
    """Run ``setup.py`` of a folder."""
    command = [sys.executable, "setup.py", "-q", *map(str, words)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def unpacked_archive(folder: Path) -> Path:
    """The source archive as who installs from it unpacks it."""
    folder.mkdir()
    setup(ROOT, "egg_info", "--egg-base", folder, "sdist", "--dist-dir", folder)
    (archive,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(archive, folder / "unpacked")
    (unpacked,) = (folder / "unpacked").iterdir()
    return unpacked


@pytest.mark.parametrize("source", ["checkout", "archive"])
@pytest.mark.process
def test_the_package_carries_what_mim_looks_for(source: str, tmp_path: Path) -> None:
    folder = ROOT if source == "checkout" else unpacked_archive(tmp_path / "archive")
    setup(folder, "build_py", "--build-lib", tmp_path)
    carried = tmp_path / "mmhybrid" / ".mim"
    index = yaml.safe_load((carried / "model-index.yml").read_text())
    for file in index["Import"]:
        for entry in yaml.safe_load((carried / file).read_text())["Models"]:
            assert (carried / entry["Config"]).is_file()
    bases = {path.name for path in (ROOT / "configs" / "_base_").rglob("*.py")}
    assert bases == {path.name for path in (carried / "configs" / "_base_").rglob("*.py")}
    assert (carried / "tools" / "train.py").is_file()
    assert (carried / "tools" / "dist_train.sh").is_file()
    assert (tmp_path / "mmhybrid" / "analysis" / "leaderboard.html").is_file()
