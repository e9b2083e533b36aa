"""``model-index.yml`` and its metafiles, in OpenMMLab's format, made from configs and results."""

import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.config_names import NEIGHBOURS, WRAPPED, ConfigName, parse_config_name
from benchmarks.results import (
    ORIGIN_NAMES,
    Row,
    figures_of,
    read_results,
    variant,
    with_published,
)
from mmhybrid.analysis.counting import count
from mmhybrid.apis.models import model_of, size_of
from mmhybrid.backbones import DepthwiseShortcutBackbone, backbone_classes
from mmhybrid.engine.runner.run_config import load_config
from mmhybrid.errors import UserError
from mmhybrid.version import __version__
from mmhybrid.weights import list_weights

FOLDER = "configs/metafiles"
# As OpenMMLab's own indices write them.
METRIC_NAMES = {"top-1": "Top 1 Accuracy", "top-5": "Top 5 Accuracy"}
ORIGIN_ORDER = ("trained", "converted", "evaluated", "paper")


def papers() -> dict[str, Any]:
    """The papers of all registered backbones by the name of their collection."""
    classes = [*backbone_classes(), DepthwiseShortcutBackbone]
    return {one.paper.collection: one.paper for one in classes if one.paper}


def collection_of(name: ConfigName) -> str | None:
    """In which collection, and metafile, a config is; None for backbones of others."""
    if name.family in NEIGHBOURS.values():
        return None
    if name.family.endswith(WRAPPED):
        return DepthwiseShortcutBackbone.paper.collection
    for backbone in backbone_classes():
        if backbone.family == name.family and backbone.paper:
            return backbone.paper.collection
    raise UserError(f"a config of {name.model}: no registered backbone has this name and a paper")


def cost_of(config: str | Path) -> Row:
    """What the model of a config holds and computes, at the size that papers count it.

    ``flops`` are as OpenMMLab's tables count them.
    """
    cfg = load_config(str(config))
    size = size_of(cfg)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with torch.device("meta"):
                model = model_of(cfg)
        except (RuntimeError, NotImplementedError):  # it asks for a value while it is made
            model = model_of(cfg)
    result = count(model, size)
    return dict(parameters=result.parameters, flops=result.mm_macs, size=list(size))


def indexed_configs(root: Path) -> list[Path]:
    """The configs of a checkout whose backbone is of this package."""
    configs = sorted((root / "configs").glob("*.py"))
    return [config for config in configs if collection_of(parse_config_name(config.stem))]


def count_configs(root: Path, results: Iterable[str | Path]) -> None:
    """Counts the configs of a checkout anew, and writes the index and its metafiles."""
    costs = {}
    for config in indexed_configs(root):
        costs[config.stem] = cost_of(config)
        print(f"{config.stem}: {costs[config.stem]['flops'] / 1e9:.4g} G", flush=True)
    head = "# Written by `python -m benchmarks leaderboard --index` from configs/ and results/.\n"
    accuracy = with_published(read_results(results))["accuracy"]
    for name, content in make_index(costs, accuracy).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
        path.write_text(head + text, encoding="utf-8")


def make_index(costs: Mapping[str, Row], accuracy: Iterable[Row]) -> dict[str, Any]:
    """What YAML holds, by path under the checkout, from :func:`cost_of` every config by its name.

    Rows of accuracy that name a config, on its data set, are entered, of a single origin each, the
    first of :data:`ORIGIN_ORDER`. The weights of a config are those that the catalogue has of it.
    """
    figures: dict[str, list[Row]] = {}
    for row in figures_of(accuracy):
        # A quick run is of other data than its config.
        if "config" in row and row["dataset"] == parse_config_name(row["config"]).dataset:
            figures.setdefault(row["config"], []).append(row)
    weights = {entry.config: entry.url for entry in list_weights() if entry.config}
    files: dict[str, Any] = {}
    for collection, paper in papers().items():
        models = []
        for stem, cost in sorted(costs.items()):
            if collection_of(parse_config_name(stem)) == collection:
                models.append(_entry(stem, cost, figures.get(stem, [])))
                if address := weights.get(stem):
                    models[-1] |= {"Weights": address, "Converted From": _published_at(address)}
        if not models:
            continue
        name = collection.lower().replace(" ", "_")
        about = {
            "Name": collection,
            "Metadata": {"Architecture": list(paper.architecture)},
            "Paper": {"Title": paper.title, "URL": paper.url},
            "README": f"docs/models/{name}.md",
            "Code": {"URL": paper.code, "Version": f"v{__version__}"},
        }
        files[f"{FOLDER}/{name}.yml"] = dict(Collections=[about], Models=models)
    return {"model-index.yml": dict(Import=sorted(files)), **files}


def _published_at(address: str) -> Row:
    """The file itself, which loads as it is, and the repository whose release it is of."""
    code = re.match(r"https://github\.com/[^/]+/[^/]+(?=/releases/)", address)
    return {"Weights": address} | ({"Code": code[0]} if code else {})


def _entry(stem: str, cost: Row, figures: list[Row]) -> Row:
    name = parse_config_name(stem)
    about = {"Parameters": cost["parameters"], "FLOPs": cost["flops"]}
    about["Input Size"] = "x".join(map(str, cost["size"]))  # mim takes no list of numbers
    entry: Row = {
        "Name": stem,
        "In Collection": collection_of(name),
        "Config": f"configs/{stem}.py",
        "Metadata": {"Training Data": name.dataset, **about},
    }
    origins = {row["origin"]["type"] for row in figures}
    best = next((type for type in ORIGIN_ORDER if type in origins), None)
    chosen = [row for row in figures if row["origin"]["type"] == best]
    if not chosen:
        return entry
    plainest = min(map(variant, chosen))  # without test-time augmentation where it can be
    chosen = [row for row in chosen if variant(row) == plainest]
    results: Row = {}
    for row in chosen:
        metric = METRIC_NAMES.get(row["metric"], row["metric"])
        task = "Instance Segmentation" if metric.startswith("mask") else name.task
        result = dict(Task=task, Dataset=row["dataset"], Metrics={})
        results.setdefault(task, result)["Metrics"][metric] = row["value"]
    origin, runs = chosen[0]["origin"], len(chosen[0]["runs"])
    where = origin.get("source") or origin["command"]
    mean = f", mean of {runs} runs" if runs > 1 else ""
    entry["Metadata"]["Results From"] = f"{ORIGIN_NAMES[best]}{mean}: {where}"
    return entry | dict(Results=list(results.values()))


def read_costs(root: Path) -> dict[str, Row]:
    """The costs of all configs, from the index in a checkout as it was written."""
    if not (root / "model-index.yml").exists():
        return {}

    def read(name: str) -> Any:
        return yaml.safe_load((root / name).read_text(encoding="utf-8"))

    return {
        entry["Name"]: dict(
            parameters=entry["Metadata"]["Parameters"],
            flops=entry["Metadata"]["FLOPs"],
            size=[int(side) for side in entry["Metadata"]["Input Size"].split("x")],
        )
        for file in read("model-index.yml")["Import"]
        for entry in read(file)["Models"]
    }
