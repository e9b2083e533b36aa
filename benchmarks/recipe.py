"""Whether the recipe for few images helps: CamVid's 60 training images, from random weights.

The plain config and the recipe train the same number of iterations on the same crops; the third,
the plain config with its schedule ending where the run ends, tells how much of it the schedule is.
"""

import json
import shutil
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from mmengine.config import Config

import mmhybrid  # noqa: F401  (registers the backbones)
from mmhybrid.analysis.tables import markdown_table
from mmhybrid.datasets.folders import read_folder, write_dataset
from mmhybrid.engine.runner.own_data import with_own_data
from mmhybrid.engine.runner.prepare_config import for_its_processes, with_safeguards
from mmhybrid.engine.runner.recipe import with_recipe
from mmhybrid.engine.runner.results import made, write_json
from mmhybrid.engine.runner.run_config import build_runner, load_config, without_pretrained

ROOT = Path(__file__).resolve().parents[1]
CONFIG = "semantic_fpn_dmformer_camvid"
# Small enough for a CPU; none of it is the recipe's.
SIZE, CROP = (160, 120), (96, 96)
CHANNELS = [16, 32, 64, 96]
SMALL = {
    "model.backbone.arch": dict(embed_dims=CHANNELS, depths=[1, 1, 2, 1]),
    "model.neck.in_channels": CHANNELS,
    "model.neck.out_channels": 64,
    "model.decode_head.in_channels": [64] * 4,
    "model.decode_head.channels": 32,
    "model.data_preprocessor.size": CROP,
    "model.test_cfg.crop_size": CROP,
    "model.test_cfg.stride": (64, 64),
    "train_dataloader.num_workers": 0,
    "train_dataloader.persistent_workers": False,
    "val_dataloader.num_workers": 0,
    "val_dataloader.persistent_workers": False,
}


def plain(cfg: Config, images: int, iterations: int) -> Config:
    cfg.train_cfg.update(max_iters=iterations, val_interval=iterations)
    return cfg


def shortened(cfg: Config, images: int, iterations: int) -> Config:
    cfg = plain(cfg, images, iterations)
    cfg.param_scheduler[-1].end = iterations
    return cfg


def recipe(cfg: Config, images: int, iterations: int) -> Config:
    cfg.recipe = dict(iterations=iterations)
    cfg = with_recipe(cfg, images, "mIoU")
    cfg.train_cfg.val_interval = iterations  # the last is what counts here
    return cfg


WAYS = {"recipe": recipe, "plain config": plain, "its schedule shortened": shortened}


def _config(data: Any) -> Config:
    cfg = load_config(str(ROOT / "configs" / f"{CONFIG}.py"), SMALL)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        for step in loader.dataset.pipeline:
            if "scale" in step:
                step.scale = SIZE
            if "crop_size" in step:
                step.crop_size = CROP
    return without_pretrained(with_own_data(cfg, data))


def _train(cfg: Config, seed: int, folder: Path) -> dict[str, float]:
    cfg.update(work_dir=str(folder), launcher="none", randomness=dict(seed=seed))
    cfg.default_hooks.checkpoint = None
    runner = build_runner(for_its_processes(with_safeguards(cfg)))
    runner.train()
    hub = runner.message_hub.log_scalars
    return {key: float(hub[f"val/{key}"].current()) for key in ("mIoU", "aAcc")}


def measure(folder: Path, out: Path, iterations: int = 150, seeds: int = 3) -> str:
    """Trains all, and writes ``recipe.md`` and ``recipe.json`` into ``out``; returns the page.

    Runs that the JSON file has already are not repeated.
    """
    work = ROOT / "work_dirs" / "recipe"
    named = work / "camvid"
    shutil.copytree(folder, named, dirs_exist_ok=True)
    classes = ["void", *Config.fromfile(ROOT / "configs" / "_base_" / "camvid.py").classes]
    (named / "classes.txt").write_text("\n".join(classes))
    data = write_dataset(read_folder(named, "segmentation"), work)
    known, begin = out / "recipe.json", time.monotonic()
    runs = json.loads(known.read_text())["runs"] if known.is_file() else []
    for seed in range(seeds):
        for name, change in WAYS.items():
            if any((run["way"], run["seed"]) == (name, seed) for run in runs):
                continue
            cfg = change(_config(data), data.images["train"], iterations)
            found = _train(cfg, seed, work / f"{name.replace(' ', '_')}_{seed}")
            runs.append(dict(way=name, seed=seed, **found))
            print(json.dumps(runs[-1]), f"after {time.monotonic() - begin:.0f} s", flush=True)
            about = dict(iterations=iterations, images=data.images, **made())
            write_json(known, dict(about, runs=runs))
    page = to_markdown(json.loads(known.read_text()))
    (out / "recipe.md").write_text(page)
    return page


def to_markdown(content: dict[str, Any]) -> str:
    """The page of what :func:`measure` found."""
    rows = []
    for name in WAYS:
        found = [run for run in content["runs"] if run["way"] == name]
        scores = [run["mIoU"] for run in found]
        deviation = f"{stdev(scores):.2f}" if len(scores) > 1 else "-"
        accuracy = mean(run["aAcc"] for run in found)
        each = ", ".join(f"{score:.2f}" for score in scores)
        rows.append([name, f"{mean(scores):.2f}", deviation, each, f"{accuracy:.2f}"])
    images = content["images"]
    table = markdown_table(
        ["", "mIoU, mean", "standard deviation", "by seed", "pixel accuracy, mean"], rows
    )
    return (
        "# The recipe for few images\n\n"
        f"`{CONFIG}`, made smaller for a CPU, on {images['train']} training images of CamVid, "
        f"{content['iterations']} iterations of 4 crops of {CROP[1]}x{CROP[0]} pixels from random "
        f"weights, on {images['val']} validation images, in percent. What the recipe does from "
        "pretrained weights is not measured here.\n\n"
        f"{table}\n\n"
        f"By `{content['command']}` at {content['commit']}, {content['device']}, PyTorch "
        f"{content['torch']}, {content['date']}.\n"
    )
