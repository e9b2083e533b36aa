"""Make the project's own tables: speed, weights, and the leaderboard with the model index.

What counts is the ratios within a run: absolute times are those of this machine at this hour.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from command_line import make_parser, prepare  # noqa: E402

EXAMPLES = """examples:
  What `make bench` does, about half an hour, into results/speed.*
    python -m benchmarks speed
  The forward pass alone, with four threads:
    python -m benchmarks speed forward --threads 4
  Backbones and their peers in PyTorch, onnxruntime and OpenVINO, hours, into results/deploy.*
    python -m benchmarks deploy
  Of these one model at one size; a stopped run goes on where it was
    python -m benchmarks deploy --models TransXNet-T --sizes 224
  From results/ into docs/leaderboard.md, .csv and .html:
    python -m benchmarks leaderboard
  The model index too, every config counted anew (a minute or two):
    python -m benchmarks leaderboard --index
  What becomes of every published file in every model that takes it, into results/weights.md:
    python -m benchmarks weights
  The recipe for few images against the plain config, into results/recipe.md:
    python -m benchmarks recipe CAMVID_SAMPLE
  Every format of one's own data, from the folder to a prediction, into results/formats.md:
    python -m benchmarks formats --shared FOLDER
  Whole detectors in onnxruntime and OpenVINO against mmdet itself, into results/detectors.*; a
  stopped run goes on where it was:
    python -m benchmarks detectors --shared FOLDER
  What a machine with a GPU shows, in about 8 minutes, into results/gpu.*
    python -m benchmarks gpu
  CIFAR-10 with and without depth-wise shortcuts, trained for an hour, and on in the next start:
    python -m benchmarks claims --seconds 3600
  The wheels that such a machine lacks, where there is a network, to carry there:
    python -m benchmarks wheels FOLDER
  faster-coco-eval against pycocotools, minutes, into results/coco_metric.md:
    python -m benchmarks coco
  From an image file to the drawn result, against mmdet's and mmseg's inferencers, into
  results/whole_models.*; a stopped run goes on where it was
    python -m benchmarks whole --shared FOLDER
  With results that lie elsewhere:
    python -m benchmarks leaderboard --results results OTHER/result.json
"""


def parse_args() -> argparse.Namespace:
    parser = make_parser(__doc__, EXAMPLES, prog="python -m benchmarks")
    parser.set_defaults(wait_policy="PASSIVE")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Callable[..., None], help: str, **more: str) -> Callable[..., Any]:
        subparser = commands.add_parser(name, help=help)
        subparser.set_defaults(run=run, **more)
        return subparser.add_argument

    # Nothing else should run beside a measurement, and threads may wait as fast as they can.
    add = command("speed", _speed, "measure, and write tables and plots", wait_policy="ACTIVE")
    section = "part of speed.md, by its name (default: all)"
    add("sections", nargs="*", metavar="SECTION", help=section)
    _add_timing(add)
    add = command("deploy", _deploy, "run backbones in every runtime")
    add("--models", nargs="+", metavar="NAME", help="such as TransXNet-T (default: all)")
    add("--sizes", nargs="+", type=_size, metavar="HxW", help="(default: 224 512 800x1344)")
    add("--ways", nargs="+", metavar="WAY", help="such as 'OpenVINO bf16' (default: all)")
    graphs = "folder for exported graphs; those there are taken (default: %(default)s)"
    add("--graphs", default="work_dirs/deploy", help=graphs)
    _add_timing(add)
    add = command("leaderboard", _leaderboard, "gather results; none without its origin")
    results = "folders with results, or single files (default: results)"
    add("--results", nargs="+", default=[str(ROOT / "results")], help=results)
    add("--out", default=str(ROOT / "docs"), help="folder (default: docs)")
    add("--index", action="store_true", help="count all configs and write model-index.yml too")
    add = command("weights", _weights, "load every type of published file; no download")
    add("--out", default="results", help="folder to write to (default: results)")
    add = command("coco", _coco, "compare the evaluations of COCO on drawn objects")
    add("--out", default="results", help="folder to write to (default: results)")
    add = command("formats", _formats, "train on one's own data in every format")
    add("formats", nargs="*", metavar="FORMAT", help="as tests/make_data_folders.py calls them")
    add("--shared", help="folder with coco_sample, camvid_sample and cifar10 (default: drawn)")
    add("--out", default="results", help="folder to write to (default: results)")
    add = command("detectors", _detectors, "compare whole detectors with mmdet's own")
    add("--shared", required=True, help="folder with coco_sample and camvid_sample")
    add("--out", default="results", help="folder to write to (default: results)")
    add("--models", nargs="+", metavar="CONFIG", help="names of configs (default: two)")
    add("--images", type=int, default=58, help="at most (default: %(default)s)")
    add("--graphs", default="work_dirs/onnx", help="folder for graphs (default: %(default)s)")
    add = command("gpu", _gpu, "tests, equality, demos and speed on a GPU")
    add("sections", nargs="*", metavar="SECTION", help="part of gpu.md, by its name (default: all)")
    add("--out", default="results", help="folder to write to (default: results)")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="(default: cuda)")
    add("--size", choices=("full", "tiny"), default="full", help="tiny: to try the command")
    add = command("claims", _claims, "train the shortcut's claim on CIFAR-10")
    add("--seconds", type=float, default=3600.0, help="of all trainings (default: an hour)")
    add("--share", type=float, default=1800.0, help="seconds of a training's turn (default: 1800)")
    add("--seeds", type=int, default=3, help="trainings of each model (default: 3)")
    add("--configs", nargs="+", default=[], metavar="CONFIG", help="(default: ViT-T and Swin-T)")
    add("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="of all trainings")
    add("--amp-dtype", help="of mixed precision; a CPU takes bfloat16 (default: on a GPU alone)")
    add("--out", default="work_dirs/claims", help="work folders and table (default: %(default)s)")
    add = command("wheels", _wheels, "fetch what a machine with PyTorch alone lacks")
    add("folder", help="to write to")
    add = command("whole", _whole, "time whole models against OpenMMLab's inferencers")
    add("--shared", required=True, help="folder with coco_sample and camvid_sample")
    add("--models", nargs="+", metavar="CONFIG", help="names of configs (default: three)")
    add("--images", type=int, default=10, help="at most (default: %(default)s)")
    add("--graphs", default="work_dirs/whole", help="folder for graphs (default: %(default)s)")
    add("--out", default="results", help="folder to write to (default: results)")
    add("--threads", type=int, default=2, help="(default: 2)")
    add = command("recipe", _recipe, "train with and without the recipe for few images")
    add("data", help="CamVid's images/training, annotations/training and the same of validation")
    add("--out", default="results", help="folder to write to (default: results)")
    add("--iterations", type=int, default=150, help="of each training (default: 150)")
    add("--seeds", type=int, default=3, help="trainings of each way (default: 3)")
    return parser.parse_args()


def _add_timing(add: Callable[..., Any]) -> None:
    add("--out", default="results", help="folder to write to (default: results)")
    add("--threads", type=int, default=2, help="(default: 2)")
    repeats = "timed calls of each (default: 5); of speed.md at least 15 where a call is short"
    add("--repeats", type=int, default=5, help=repeats)


def _size(text: str) -> tuple[int, int]:
    """Height and width from ``'224'`` or ``'800x1344'``."""
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def _speed(args: argparse.Namespace) -> None:
    from benchmarks.speed import measure

    measure(args.sections, Path(args.out), args.threads, args.repeats)


def _deploy(args: argparse.Namespace) -> None:
    import torch

    from benchmarks.deploy_speed import measure_deploy
    from benchmarks.speed import machine_with

    torch.set_num_threads(args.threads)
    chosen = dict(models=args.models, sizes=args.sizes, ways=args.ways)
    machine, graphs = machine_with(args.threads), Path(args.graphs)
    print(measure_deploy(Path(args.out), machine, args.repeats, graphs, **chosen))


def _recipe(args: argparse.Namespace) -> None:
    from benchmarks.recipe import measure

    print(measure(Path(args.data), Path(args.out), args.iterations, args.seeds))


def _formats(args: argparse.Namespace) -> None:
    from benchmarks.formats import write_table

    shared = Path(args.shared) if args.shared else None
    print(write_table(shared, Path(args.out), args.formats))


def _detectors(args: argparse.Namespace) -> None:
    from benchmarks.detectors import MODELS, measure

    places = (Path(args.shared), Path(args.out), Path(args.graphs))
    print(measure(*places, args.models or MODELS, args.images))


def _gpu(args: argparse.Namespace) -> None:
    from benchmarks.gpu import measure

    measure(args.sections, Path(args.out), args.device, args.size)


def _claims(args: argparse.Namespace) -> None:
    from benchmarks.claims import train_claims

    time = dict(seconds=args.seconds, share=args.share)
    chosen = dict(configs=args.configs, options=args.cfg_options, amp_dtype=args.amp_dtype)
    print(train_claims(Path(args.out).resolve(), seeds=args.seeds, **time, **chosen))


def _wheels(args: argparse.Namespace) -> None:
    from benchmarks.wheels import fetch

    print(fetch(Path(args.folder)))


def _coco(args: argparse.Namespace) -> None:
    from benchmarks.coco_metric import write_table

    print(write_table(Path(args.out)))


def _whole(args: argparse.Namespace) -> None:
    import torch

    from benchmarks.speed import machine_with
    from benchmarks.whole_models import measure_whole

    torch.set_num_threads(args.threads)
    places = (Path(args.shared), Path(args.out), Path(args.graphs))
    print(measure_whole(*places, machine_with(args.threads), args.models, args.images))


def _weights(args: argparse.Namespace) -> None:
    from benchmarks.weights import write_table

    print(write_table(Path(args.out)))


def _leaderboard(args: argparse.Namespace) -> None:
    from benchmarks.leaderboard import write_leaderboard
    from benchmarks.model_index import count_configs

    if args.index:
        count_configs(ROOT, args.results)
    print(write_leaderboard(ROOT, args.results, Path(args.out)))


def main() -> None:
    args = parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", args.wait_policy)
    prepare()

    from mmhybrid.errors import UserError

    try:
        args.run(args)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
