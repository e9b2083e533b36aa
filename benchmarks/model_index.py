"""``model-index.yml`` and its metafiles, in OpenMMLab's format, made from configs and results."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from mmengine.config import Config

from benchmarks.config_names import ConfigName, parse_config_name
from mmhybrid.analysis.counting import count
from mmhybrid.apis.models import model_of, size_of
from mmhybrid.engine.runner.results import ORIGIN_NAMES, Row, figures_of, variant
from mmhybrid.engine.runner.run_config import load_config
from mmhybrid.version import __version__

FOLDER = "configs/metafiles"
COLLECTIONS = {
    "TransXNet": dict(
        title="TransXNet: Learning Both Global and Local Dynamics with a Dual Dynamic Token Mixer "
        "for Visual Recognition",
        url="https://arxiv.org/abs/2310.19380",
        code="mmhybrid/backbones/transxnet.py",
        architecture=["Dual Dynamic Token Mixer", "Input-dependent Depthwise Convolution"],
    ),
    "DMFormer": dict(
        title="DMFormer: Closing the Gap Between CNN and Vision Transformers",
        url="https://arxiv.org/abs/2209.07738",
        code="mmhybrid/backbones/dmformer.py",
        architecture=["Dynamic Multi-level Attention"],
    ),
    "XFormer": dict(
        title="Lightweight Vision Transformer with Cross Feature Attention",
        url="https://arxiv.org/abs/2207.07268",
        code="mmhybrid/backbones/xformer.py",
        architecture=["Cross Feature Attention"],
    ),
    "DW shortcut": dict(
        title="Depth-Wise Convolutions in Vision Transformers for Efficient Training on Small "
        "Datasets",
        url="https://arxiv.org/abs/2407.19394",
        code="mmhybrid/layers/depthwise_shortcut.py",
        architecture=["Depth-wise Convolution", "Self-attention"],
    ),
}
# As OpenMMLab's own indices write them.
METRIC_NAMES = {"top-1": "Top 1 Accuracy", "top-5": "Top 5 Accuracy"}
ORIGIN_ORDER = ("trained", "converted", "evaluated", "paper")


def cost_of(config: str | Path) -> Row:
    """What the model of a config holds and computes, at the size that papers count it.

    Returns:
        ``parameters``, ``flops`` (as OpenMMLab's tables count them) and ``size`` (H, W).
    """
    cfg = load_config(str(config))
    size = size_of(cfg)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = _without_values(cfg)
    result = count(model, size)
    return dict(parameters=result.parameters, flops=result.mm_macs, size=list(size))


def _without_values(cfg: Config) -> torch.nn.Module:
    """The model on the meta device, or if it asks for a value while it is made, on the CPU."""
    try:
        with torch.device("meta"):
            return model_of(cfg)
    except (RuntimeError, NotImplementedError):
        return model_of(cfg)


def costs_of(
    configs: Iterable[Path], say: Callable[[str], None] = lambda line: None
) -> dict[str, Row]:
    """:func:`cost_of` each config, by its name.

    Args:
        configs: paths.
        say: called with a line for each.
    """
    costs = {}
    for config in configs:
        costs[config.stem] = cost_of(config)
        say(f"{config.stem}: {costs[config.stem]['flops'] / 1e9:.4g} G")
    return costs


def collection_of(name: ConfigName) -> str:
    """In which collection, and metafile, a config is."""
    return name.family if name.family in COLLECTIONS else "DW shortcut"


def make_index(
    costs: Mapping[str, Row], accuracy: Iterable[Row], weights: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The content of all files.

    Args:
        costs: of :func:`costs_of`.
        accuracy: rows of results; those that name a config, on its data set, are entered, of a
            single origin each: trained here, else published weights evaluated here, else another
            checkpoint evaluated here, else the paper's.
        weights: addresses of published weights, by config.

    Returns:
        By path under the checkout, what YAML holds.
    """
    figures: dict[str, list[Row]] = {}
    for row in figures_of(accuracy):
        # A quick run is of other data than its config.
        if "config" in row and row["dataset"] == parse_config_name(row["config"]).dataset:
            figures.setdefault(row["config"], []).append(row)
    files: dict[str, Any] = {}
    for collection, about in COLLECTIONS.items():
        models = [
            _entry(stem, cost, figures.get(stem, []), (weights or {}).get(stem))
            for stem, cost in sorted(costs.items())
            if collection_of(parse_config_name(stem)) == collection
        ]
        file = f"{FOLDER}/{collection.lower().replace(' ', '_')}.yml"
        files[file] = dict(Collections=[_collection(collection, about)], Models=models)
    return {"model-index.yml": dict(Import=sorted(files)), **files}


def _collection(name: str, about: Mapping[str, Any]) -> Row:
    return {
        "Name": name,
        "Metadata": {"Architecture": about["architecture"]},
        "Paper": {"Title": about["title"], "URL": about["url"]},
        "README": "README.md",
        "Code": {"URL": about["code"], "Version": f"v{__version__}"},
    }


def _entry(stem: str, cost: Row, figures: list[Row], weights: str | None) -> Row:
    name = parse_config_name(stem)
    entry: Row = {
        "Name": stem,
        "In Collection": collection_of(name),
        "Config": f"configs/{stem}.py",
        "Metadata": {
            "Training Data": name.dataset,
            "Parameters": cost["parameters"],
            "FLOPs": cost["flops"],
            "Input Size": cost["size"],
        },
    }
    kinds = {row["origin"]["kind"] for row in figures}
    kind = next((kind for kind in ORIGIN_ORDER if kind in kinds), None)
    if kind is not None:
        chosen = [row for row in figures if row["origin"]["kind"] == kind]
        plainest = min(map(variant, chosen))  # without test-time augmentation where it can be
        chosen = [row for row in chosen if variant(row) == plainest]
        results = {}
        for row in chosen:
            metric = METRIC_NAMES.get(row["metric"], row["metric"])
            task = "Instance Segmentation" if metric.startswith("mask") else name.task
            result = dict(Task=task, Dataset=row["dataset"], Metrics={})
            results.setdefault(task, result)["Metrics"][metric] = row["value"]
        origin = chosen[0]["origin"]
        where = origin.get("source") or origin["command"]
        runs = len(chosen[0]["runs"])
        mean = f", mean of {runs} runs" if runs > 1 else ""
        entry["Metadata"]["Results From"] = f"{ORIGIN_NAMES[kind]}{mean}: {where}"
        entry["Results"] = list(results.values())
    if weights:
        entry["Weights"] = weights
    return entry


def published_weights(config: str | Path) -> str | None:
    """The address of weights for the whole model of a config, where the authors give one.

    For a classifier those that its backbone starts from elsewhere are its own.
    """
    stem = Path(config).stem
    name = parse_config_name(stem)
    if (name.family, name.dataset) == ("TransXNet", "ImageNet-1K"):
        size = name.model[-1].lower()
        return f"https://github.com/LMMMEng/TransXNet/releases/download/v1.0/transx-{size}.pth.tar"
    return None


def write_index(root: Path, files: Mapping[str, Any]) -> None:
    """Writes what :func:`make_index` returned.

    Args:
        root: the checkout.
        files: by path under it.
    """
    head = (
        "# Written by benchmarks/make_leaderboard.py --index; change configs or results/ instead.\n"
    )
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
        path.write_text(head + text, encoding="utf-8")


def read_costs(root: Path) -> dict[str, Row]:
    """The costs of all configs, from the index as it was written.

    Args:
        root: the checkout.
    """
    index = root / "model-index.yml"
    if not index.exists():
        return {}
    costs = {}
    for name in yaml.safe_load(index.read_text(encoding="utf-8"))["Import"]:
        for entry in yaml.safe_load((root / name).read_text(encoding="utf-8"))["Models"]:
            about = entry["Metadata"]
            costs[entry["Name"]] = dict(
                parameters=about["Parameters"], flops=about["FLOPs"], size=about["Input Size"]
            )
    return costs
