"""The model index: every config in it, none dangling, and its figures those of what is built."""

from pathlib import Path

import pytest
import yaml

from benchmarks.config_names import parse_config_name
from benchmarks.model_index import cost_of, indexed_configs, make_index, papers, read_costs
from benchmarks.results import check_row, read_results, with_published
from mmhybrid.backbones import backbone_classes
from mmhybrid.weights import list_weights

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = indexed_configs(ROOT)
AGAIN = "python -m benchmarks leaderboard --index"


def read(name: str) -> dict:
    return yaml.safe_load((ROOT / name).read_text())


def entries() -> dict[str, dict]:
    """All models of the index, by name."""
    files = read("model-index.yml")["Import"]
    return {entry["Name"]: entry for file in files for entry in read(file)["Models"]}


def test_every_config_is_in_and_none_dangles() -> None:
    others = {config.stem for config in (ROOT / "configs").glob("*.py") if config not in CONFIGS}
    assert others == {"semantic_fpn_van_b2_ade20k", "mask_rcnn_timm_nextvit_s_coco"}
    index = entries()
    assert sorted(index) == [config.stem for config in CONFIGS], AGAIN
    assert all((ROOT / entry["Config"]).is_file() for entry in index.values())
    files = read("model-index.yml")["Import"]
    assert sum(len(read(file)["Models"]) for file in files) == len(index)


def test_collections_are_whole() -> None:
    for content in map(read, read("model-index.yml")["Import"]):
        (collection,) = content["Collections"]
        assert (ROOT / collection["README"]).is_file()
        assert (ROOT / collection["Code"]["URL"]).is_file()
        assert collection["Paper"]["URL"].startswith("https://arxiv.org/abs/")
        assert {entry["In Collection"] for entry in content["Models"]} == {collection["Name"]}


@pytest.mark.full_size
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_figures_are_those_of_what_is_built(config: Path) -> None:
    assert read_costs(ROOT)[config.stem] == cost_of(config), AGAIN


def test_accuracies_are_those_of_the_results() -> None:
    index = entries()
    for row in read_results([ROOT / "results"])["accuracy"]:
        if row.get("config") not in index or row["origin"]["type"] != "paper":
            continue
        entry = index[row["config"]]
        if entry["Metadata"]["Results From"].startswith("the paper's"):
            found = {k: v for one in entry["Results"] for k, v in one["Metrics"].items()}
            metric = row["metric"].replace("top-1", "Top 1 Accuracy")
            assert found[metric] == row["value"], AGAIN
    assert all(("Results" in e) == ("Results From" in e["Metadata"]) for e in index.values())


NAME = "upernet_dmformer_s_ade20k"
TRAINED = dict(type="trained", command="python train.py", commit="c", device="d", seed=0)


def miou(value: float, origin: dict = TRAINED, **more: object) -> dict:
    row = dict(model="m", dataset="ADE20K", metric="mIoU", config=NAME, value=value, origin=origin)
    return row | more


PAPERS = miou(50.0, dict(type="paper", source="s", where="w"))
RUNS = [miou(40.0 + seed, dict(TRAINED, seed=seed)) for seed in (0, 1, 2)]


@pytest.mark.parametrize(
    ("rows", "value", "origin"),
    [
        # What was trained here comes first; a quick run is of other data than the config.
        ([PAPERS, *RUNS[:1], miou(99.0, dataset="ADE20K, quick run")], 40, "trained here"),
        # Several runs are their mean, as in the leaderboard.
        ([*RUNS, miou(99.0, note="test-time augmentation")], 41, "trained here, mean of 3 runs"),
    ],
)
def test_one_origin_is_entered(rows: list[dict], value: float, origin: str) -> None:
    files = make_index({NAME: dict(parameters=1, flops=2, size=[3, 4])}, rows)
    (entry,) = files["configs/metafiles/dmformer.yml"]["Models"]
    assert entry["Results"][0]["Metrics"] == {"mIoU": value}
    assert entry["Metadata"]["Results From"] == f"{origin}: python train.py"


def test_names_of_configs_are_understood() -> None:
    name = parse_config_name("cascade_mask_rcnn_dw_swin_t_coco")
    detection = ("Cascade Mask R-CNN", "DW-Swin", "DW-Swin-T", "COCO", "Object Detection")
    assert name == detection
    name = parse_config_name("dw_cait_xxs12_tiny_imagenet")
    assert (name.method, name.model, name.dataset) == ("", "DW-CaiT-XXS12", "Tiny-ImageNet")
    assert parse_config_name("my_own").model == "my_own"
    assert all(parse_config_name(file.stem).dataset for file in (ROOT / "configs").glob("*.py"))
    name = parse_config_name("mask_rcnn_timm_nextvit_s_coco")
    assert (name.method, name.model) == ("Mask R-CNN", "Next-ViT-S")
    name = parse_config_name("mask_rcnn_swin_t_with_dw_shortcut_coco")
    assert (name.method, name.model) == ("Mask R-CNN", "Swin-T with DW shortcut")


def test_weights_are_those_of_the_catalogue() -> None:
    published = {entry.config: entry.url for entry in list_weights() if entry.config}
    assert published["transxnet_b_imagenet"].endswith("transx-b.pth.tar")
    index = entries()
    found = {name: entry["Weights"] for name, entry in index.items() if "Weights" in entry}
    assert found == published, AGAIN
    release = "https://github.com/LMMMEng/TransXNet"
    converted = dict(Weights=published["transxnet_b_imagenet"], Code=release)
    assert index["transxnet_b_imagenet"]["Converted From"] == converted


def test_figures_of_the_catalogue_are_entered_where_there_is_none_of_a_paper() -> None:
    published = {
        (entry.config, metric): value
        for entry in list_weights()
        for metric, value in entry.metrics.items()
        if entry.config
    }
    rows = with_published(dict(accuracy=[]))["accuracy"]
    assert {(row["config"], row["metric"]): row["value"] for row in rows} == published
    assert [check_row(row) for row in rows]
    results = read_results([ROOT / "results"])["accuracy"]
    papers = [row for row in results if row["origin"]["type"] == "paper"]
    entered = {(row.get("config"), row["metric"]): row["value"] for row in papers}
    assert published.items() <= {**published, **entered}.items()  # they say the same
    assert with_published(dict(accuracy=papers))["accuracy"][: len(papers)] == papers
    assert len(with_published(dict(accuracy=papers * 2))["accuracy"]) == 2 * len(papers) + len(
        published.keys() - entered
    )


def test_mim_takes_every_value() -> None:
    """It joins lists as text, and takes text and numbers."""
    for name in read("model-index.yml")["Import"]:
        content = read(name)
        for entry in (*content["Collections"], *content["Models"]):
            for key, value in entry["Metadata"].items():
                parts = value if isinstance(value, list) else [value]
                most = str if isinstance(value, list) else str | int | float
                assert all(isinstance(one, most) for one in parts), f"{entry['Name']}: {key}"


def test_every_backbone_has_a_paper() -> None:
    ours = [c for c in backbone_classes() if c.__module__.startswith("mmhybrid.")]
    assert len(ours) >= 6
    assert all(backbone.paper.collection in papers() for backbone in ours)
    assert len(papers()) == len(read("model-index.yml")["Import"]) == 4
