"""Every config in the wheels of mmdet, mmseg and mmpretrain through the check of configs.

Each as it is, and with a backbone of this package put in. Not part of the test suite, for it takes
some minutes. Fails where a right config is refused or warned of, or the check itself fails. Started
again, it goes on after the configs that the file of results has.

    python tests/config_sweep.py [mmdet | mmseg | mmpretrain ...] [--part 0/4] [--out FILE]
"""

import argparse
import json
import logging
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from copy import deepcopy
from io import StringIO
from pathlib import Path
from unittest import mock

from mmengine.config import Config

import mmhybrid
from mmhybrid.analysis.tables import markdown_table
from mmhybrid.engine.runner.check_config import check_config
from mmhybrid.engine.runner.run_config import load_config
from mmhybrid.errors import ArgumentError, UserError

OURS = dict(type="TransXNet", arch=dict(depths=(1, 1, 1, 1)), init_cfg=None)
# What a config asks for that a machine may lack: files of weights, and packages.
NOT_HERE = re.compile(r"there is no checkpoint|pip install|cannot be imported")
# Configs that cannot run as they are in the wheels, and what is said of them.
WRONG = {
    "faster-rcnn_r50_fpn_1x_voc0712-cocofmt.py": "CocoMetric has no argument 'eval_mode'",
    "minigpt-4_baichuan-7b_caption.py": "test_dataloader.sampler is empty or missing",
    "voc0712.py": "train_dataloader.sampler is empty or missing",
    "fcos_swinb_fpn_8x4_sample1e-3_mstrain_v3det_2x.py": "FPN has no argument",
}
# The same by what is said: MMEngine's Runner and mmseg's stack_batch stop at these too; classes
# are those of ImageNet-21k under the data set of ImageNet-1k; images are padded to more than crops.
WRONG_KINDS = re.compile(
    r"of \w+_dataloader, \w+, \w+ a config needs all or none"
    r"|_dataloader.sampler is empty or missing|no type 'MOTChallengeMetrics'"
    r"|one of size and size_divisor must say"
    r"|data_preprocessor: size=.*, but training crops to"
    r"|num_classes=21843, but the training data has 1000"
)


def paths_of(package: str) -> list[Path]:
    """Configs in the wheel of a package, without those that only serve as a base."""
    folder = Path(sys.modules["mmengine"].__file__).parents[1] / package / ".mim" / "configs"
    paths = sorted(folder.glob("*/**/*.py"))
    return [one for one in paths if "_base_" not in one.parts and not one.name.startswith("_")]


@contextmanager
def logged() -> Iterator[list[str]]:
    """What the checks log."""
    told: list[str] = []
    with ExitStack() as stack:
        for name in ("check_config", "check_classes"):
            stack.enter_context(mock.patch(f"mmhybrid.engine.runner.{name}.print_log", _into(told)))
        yield told


def _into(told: list[str]) -> Callable[..., None]:
    return lambda text, *args, **options: told.append(text)


def check(cfg: Config, with_ours: bool) -> str:
    """``"right"``, or why not; ``"no place"`` where no backbone can be put in."""
    cfg = deepcopy(cfg)
    with logged() as told, redirect_stdout(StringIO()):
        try:
            if with_ours:
                try:
                    cfg.merge_from_dict(dict(model=mmhybrid.replace_backbone(cfg.model, OURS)))
                except ArgumentError:
                    return "no place"
            check_config(cfg)
        except UserError as error:
            return f"refused: {error}"
    return f"warned of: {sorted(set(told))[0]}" if told else "right"


def results_in(file: Path) -> dict[tuple[str, str], dict[str, str]]:
    """What was found before, by package and config; a line that was cut off is taken out."""
    text = file.read_text() if file.exists() else ""
    if not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        file.write_text(text)
    rows = map(json.loads, text.splitlines())
    return {(row["package"], row["config"]): row["outcomes"] for row in rows}


def outcomes(path: Path) -> dict[str, str]:
    """Of a config, by what was put in."""
    try:
        with redirect_stdout(StringIO()):
            cfg = load_config(str(path))
    except Exception:  # their own faults, such as a base that the wheel lacks
        return {"as it is": "cannot be read"}
    if "model" not in cfg:
        return {"as it is": "without a model"}
    return {"as it is": _outcome(path, cfg, False), "with ours": _outcome(path, cfg, True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", nargs="*", default=["mmdet", "mmseg", "mmpretrain"])
    parser.add_argument("--part", default="0/1", help="the first of N parts: 0/N")
    parser.add_argument("--out", type=Path, default=Path("work_dirs/config_sweep.jsonl"))
    args = parser.parse_args()
    first, parts = map(int, args.part.split("/"))
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    found = results_in(args.out)
    counts: Counter[tuple[str, str]] = Counter()
    faults = []
    for package in args.packages:
        for path in paths_of(package)[first::parts]:
            name = path.as_posix().partition("/.mim/configs/")[2]
            if (package, name) not in found:
                found[package, name] = outcomes(path)
                row = dict(package=package, config=name, outcomes=found[package, name])
                with args.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            for how, told in found[package, name].items():
                group = told.partition(": ")[0]
                counts[f"{how}: {group}", package] += 1
                if group in ("refused", "warned of", "crashed"):
                    faults.append(f"{package} {name} {how}: {told}")
    rows = sorted({group for group, _ in counts})
    table = [[group, *(counts[group, package] for package in args.packages)] for group in rows]
    print(markdown_table(["", *args.packages], table), *faults, f"{len(faults)} faults", sep="\n")
    sys.exit(bool(faults))


def _outcome(path: Path, cfg: Config, with_ours: bool) -> str:
    try:
        told = check(cfg, with_ours)
    except Exception as error:
        return f"crashed: {type(error).__name__} {error}"
    if told.startswith("refused") and NOT_HERE.search(told):
        return "needs what is not here"
    if WRONG_KINDS.search(told) or (path.name in WRONG and WRONG[path.name] in told):
        return "wrong, and told"
    return told


if __name__ == "__main__":
    main()
