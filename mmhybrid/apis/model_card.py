"""The card of a published model: what the Hub shows, and what its leaderboards read."""

from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import nn

from mmhybrid.weights.matching import backbones_of

TASKS = {
    "detection": "object-detection",
    "instances": "image-segmentation",
    "segmentation": "image-segmentation",
    "classification": "image-classification",
}
METRICS = {"accuracy/top1": "accuracy", "mIoU": "mean_iou"}  # as the Hub calls them
PERCENT = ("accuracy/", "mIoU", "aAcc", "mAcc")  # from 0 to 100; COCO's are from 0 to 1


def make_card(
    model: nn.Module,
    described: Mapping[str, Any],
    record: Mapping[str, Any] | None,
    images: Sequence[str],
    license: str | None,
    checkpoint: str,
) -> ModelCard:
    """The card.

    Args:
        model: With its weights.
        described: What a checkpoint says of itself.
        record: Its result, where there is one.
        images: Names of files in the folder ``images``.
        license: SPDX identifier.
        checkpoint: File or address of the weights.
    """
    name = described["name"].removesuffix(".py")
    backbone = next(iter(backbones_of(model).values()), None)
    task = TASKS.get(described.get("task"))
    data = ModelCardData(
        model_name=name,
        license=license and license.lower(),
        library_name="mmhybrid",
        pipeline_tag=task,
        tags=["mmhybrid", "openmmlab", *([backbone.family] if backbone else [])],
        eval_results=_evaluations(task or "other", record),
    )
    parameters = sum(one.numel() for one in model.parameters())
    lines = [
        f"# {name}",
        "",
        f"{parameters / 1e6:.1f} million parameters, for mmhybrid on OpenMMLab.",
    ]
    if backbone and backbone.paper:
        lines.append(
            f"The backbone is {backbone.family}: [{backbone.paper.title}]({backbone.paper.url})."
        )
    lines += ["", *(f"![{image}](images/{image})\n" for image in images)]
    lines += ["## Use", "", "```python", "import mmhybrid", ""]
    lines += ['model = mmhybrid.from_pretrained("FOLDER")  # or this repository', "```", ""]
    lines += ["```bash", "mmhybrid predict FOLDER/model.safetensors images/", "```", ""]
    lines += ["## Results", "", *_results(record), "", "## Origin and limits", ""]
    lines += [f"* {one}" for one in _facts(described, record, license, checkpoint)]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n")


def dataset_name(record: Mapping[str, Any]) -> str:
    """The data set of a result; a quick run's is another than the config's."""
    return record["dataset"] + (", drawn or shrunk for a quick run" if record["quick"] else "")


def _evaluations(task: str, record: Mapping[str, Any] | None) -> list[EvalResult] | None:
    if record is None:
        return None
    data = dict(dataset_type=record["dataset"].lower(), dataset_name=dataset_name(record))
    return [
        EvalResult(
            task_type=task,
            metric_type=METRICS.get(name, name),
            metric_name=name,
            metric_value=value,
            **data,
        )
        for name, value in record["metrics"].items()
        if isinstance(value, int | float) and "time" not in name and name != "step"
    ]


def _results(record: Mapping[str, Any] | None) -> list[str]:
    if record is None:
        return ["None is known."]
    origin = record["origin"]
    note = f" ({record['note']})" if record.get("note") else ""
    lines = [f"On {dataset_name(record)}{note}, measured by its publisher:", ""]
    lines += ["| metric | value |", "| --- | --- |"]
    for one in _evaluations("", record):
        unit = " %" if one.metric_name.startswith(PERCENT) else ""
        lines.append(f"| {one.metric_name} | {one.metric_value:.4g}{unit} |")
    of = "weights, trained here" if origin["type"] == "trained" else "evaluation"
    lines += ["", f"The command of the {of}:"]
    return [*lines, "", "```bash", origin.get("command", "# the command is not known"), "```"]


def _facts(
    described: Mapping[str, Any],
    record: Mapping[str, Any] | None,
    license: str | None,
    checkpoint: str,
) -> list[str]:
    origin = described.get("origin") or (record or {}).get("origin") or {}
    facts = [
        f"Weights: {origin.get('type', 'of an origin that their file does not name')}"
        + (f" by `{origin['command']}`" if origin.get("command") else "")
        + (f", mmhybrid {origin['commit']}" if origin.get("commit") else ""),
    ]
    if "://" in checkpoint:
        facts.append(f"From {checkpoint}, with the names of mmhybrid's modules")
    facts.append(f"Licence of the weights: {license or 'not stated'}")
    if classes := described.get("classes"):
        shown = ", ".join(map(str, classes[:20])) + (", ..." if len(classes) > 20 else "")
        facts.append(f"It knows {len(classes)} classes and no others: {shown}")
    for step, size in (described.get("sizes") or {}).items():
        facts.append(f"Tested with {step} = {size}")
    if record and record["quick"]:
        facts.append("Of a quick run: it shows that training works, and is good for nothing else")
    return facts
