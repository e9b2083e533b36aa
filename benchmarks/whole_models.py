"""Whole models from an image file to the drawn result: OpenMMLab's inferencers, and exported."""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from benchmarks.detectors import spread_predictions
from mmhybrid.analysis.tables import markdown_table
from mmhybrid.analysis.timing import peak_memory_of, ratio, time_interleaved
from mmhybrid.apis import make_inferencer
from mmhybrid.apis.inferencer import dataset_meta
from mmhybrid.apis.inputs import find_inputs, read_rgb
from mmhybrid.apis.models import init_model
from mmhybrid.deploy import Predictor, export
from mmhybrid.deploy.predictor import read_image
from mmhybrid.engine.runner.results import write_json

# By config, where in the shared folder its images are.
MODELS = {
    "mask_rcnn_transxnet_t_coco": "coco_sample",
    "yolov3_xformer_s_coco": "coco_sample",
    "segformer_xformer_s_camvid": "camvid_sample/images",
}
THEIRS = "OpenMMLab's inferencer"
# Folder beside the graph's, and runtime.
WAYS = {
    "onnxruntime": ("fp32", "onnxruntime"),
    "OpenVINO fp32": ("fp32", "openvino"),
    "OpenVINO bf16": ("bf16", "openvino"),
}
SCORE = 0.3  # least of what is drawn
SIZE = (800, 1344)  # of the image whose memory is measured


def measure_whole(
    shared: Path,
    folder: Path,
    graphs: Path,
    machine: Mapping[str, Any],
    models: Iterable[str] | None = None,
    images: int = 10,
) -> str:
    """Measures ``models`` (configs by name) or all; writes whole_models.json and whole_models.md,
    which it returns.

    What the file has of a model is not measured again, so that a stopped run can be resumed; graphs
    that are in ``graphs`` are taken as they are.
    """
    file = folder / "whole_models.json"
    results = json.loads(file.read_text()) if file.exists() else {"models": {}}
    for name in models or MODELS:
        if name in results["models"]:
            continue
        files = [path for path, _ in find_inputs([str(shared / MODELS[name])])][:images]
        print(f"exporting {name} ...", flush=True)
        place = _exported(name, graphs / name, files[0])
        print(f"measuring {name} ...", flush=True)
        results["models"][name] = dict(
            machine=dict(machine), images=len(files), ways=_rows(name, place, files)
        )
        write_json(file, results)
        (folder / "whole_models.md").write_text(page(results))
    return page(results)


def _exported(name: str, place: Path, image: Path) -> Path:
    """The folder with the checkpoint, the graph and the same as bfloat16, made if it is not there.

    Weights are random; the layers of a detector that predict are scaled, so that it finds things.
    """
    if not (place / "bf16" / "model.json").exists():
        cfg = Config.fromfile(f"configs/{name}.py")
        model = init_model(f"configs/{name}.py")
        if hasattr(model, "neck") and not hasattr(model, "decode_head"):
            init_default_scope(cfg.default_scope)
            small = torch.from_numpy(read_rgb(image)).permute(2, 0, 1)[None].float()
            model = spread_predictions(model, small)
        model.dataset_meta = dataset_meta(cfg, None)
        place.mkdir(parents=True, exist_ok=True)
        torch.save(dict(state_dict=model.state_dict(), meta={}), place / "model.pth")
        # Rounding moves boxes of random weights more than those of trained ones.
        meta = export(model, place / "fp32", cfg=cfg, check=[(256, 320)], tolerance=1, report=print)
        meta |= dict(precision="bf16", runtime="openvino", file=f"../fp32/{meta['file']}")
        (place / "bf16").mkdir(exist_ok=True)
        (place / "bf16" / "model.json").write_text(json.dumps(meta))
    return place


def _rows(name: str, place: Path, files: list[Path]) -> list[dict[str, Any]]:
    calls = {THEIRS: _theirs(name, place, files)}
    for way, (precision, runtime) in WAYS.items():
        predict = Predictor(place / precision, runtime, torch.get_num_threads())
        calls[way] = partial(_draw, predict, cycle(files))
    seconds = time_interleaved(calls, repeats=len(files))
    rows = []
    for way, measured in seconds.items():
        row = dict(way=way, images_a_second=len(measured) / sum(measured), all_seconds=measured)
        row["times_as_fast"] = ratio(seconds, THEIRS, way)
        if way in WAYS:
            args = (str(place / WAYS[way][0]), WAYS[way][1], torch.get_num_threads())
            row["peak_mib"] = peak_memory_of(_once, *args) / 2**20
        rows.append(row)
    return rows


def _theirs(name: str, place: Path, files: list[Path]) -> Callable[[], object]:
    cfg = Config.fromfile(f"configs/{name}.py")
    inferencer = make_inferencer(cfg, str(place / "model.pth"), device="cpu")
    paths = cycle(map(str, files))
    options = dict(return_vis=True)
    if cfg.default_scope == "mmdet":
        options |= dict(pred_score_thr=SCORE, no_save_vis=True)
    return lambda: inferencer(next(paths), **options)["visualization"]


def _draw(predict: Predictor, files: Iterable[Path]) -> np.ndarray:
    image = read_image(next(files))
    return predict.draw(image, predict(image), SCORE)


def _once(folder: str, runtime: str, threads: int) -> Callable[[], object]:
    """Opens a model and predicts on one image."""
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    return lambda: Predictor(folder, runtime, threads)(image)


def page(results: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    rows, machines = [], set()
    for name, measured in results["models"].items():
        about = dict(measured["machine"], images=measured["images"])
        machines.add(", ".join(f"{key}: {value}" for key, value in about.items()))
        for row in measured["ways"]:
            peak = f"{row['peak_mib']:.0f}" if "peak_mib" in row else "-"
            cells = [f"{row['images_a_second']:.2f}", f"{row['times_as_fast']:.2f}", peak]
            rows.append([name, row["way"], *cells])
    parts = [
        "# Whole models, from an image file to the drawn result",
        "One image at a time: read, resized, predicted on, and drawn at its own size. Exported for "
        "any size, run by `mmhybrid.deploy.Predictor`, beside mmdet's and mmseg's inferencers in "
        "PyTorch, all in turn, with random weights. *Times as fast* is the median of ratios of "
        "neighbouring calls. The peak is that of a process that opens the model and predicts on an "
        f"image of {SIZE[0]}x{SIZE[1]}, which the model's own config resizes.",
        *sorted(machines),
        markdown_table(["model", "way", "images a second", "times as fast", "peak (MiB)"], rows),
    ]
    return "\n\n".join(parts) + "\n"
