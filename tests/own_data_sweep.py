"""Every config in the wheels of mmdet, mmseg and mmpretrain, changed to data of one's own.

Not part of the test suite, for it takes some six minutes. Fails where a config is not changed and
not refused in a sentence, or where a number of classes, or a path, of other data is left.

    python tests/own_data_sweep.py [mmdet | mmseg | mmpretrain ...]
"""

import logging
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from mmengine.config import Config

import mmhybrid
from mmhybrid.datasets.prepared_data import PreparedData
from mmhybrid.engine.runner.classes import task_of
from mmhybrid.engine.runner.own_data import with_own_data
from mmhybrid.errors import UserError

COUNT = 7  # of no data set of the three
# What may stand in a changed config: heads without classes, and settings that are no counts.
OTHER = re.compile(r"rpn_head\.num_classes|num_stuff_classes|num_sample_class|class_agnostic")


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Paths and values of all that is no dictionary, lists with their items."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}")
        return
    yield path, node
    if isinstance(node, list | tuple):
        for value in node:
            yield from leaves(value, path)


def left_over(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """What still tells of other data: found by keys and values alone, without registries."""
    counts = {value for path, value in leaves(before["model"]) if path.endswith("num_classes")}
    for path, value in leaves(after):
        last = path.rpartition(".")[2]
        if "class" in last and type(value) is int and value != COUNT and not OTHER.search(path):
            yield f"{path}={value}"
        length = len(value) if isinstance(value, list | tuple) else 0
        if length > COUNT + 1 and {length, length - 1} & counts:
            yield f"{path}: {length} values"
        if isinstance(value, str) and value.startswith("data/"):
            yield f"{path}={value}"


def check(cfg: Config) -> str:
    """Changes a config; returns why not, or ''; AssertionError where something is left."""
    before = cfg.to_dict()
    files = dict(image_root="/images", ann_files=dict(train="/t", val="/v"), mask_root="/masks")
    try:
        palette = [(n, n, n) for n in range(COUNT)]
        data = PreparedData(task_of(cfg), tuple("abcdefg"), palette, **files)
        after = with_own_data(cfg, data)
    except UserError as error:
        return str(error)
    assert cfg.to_dict() == before, "the config that was given has changed"
    found = list(left_over(before, after.to_dict()))
    assert not found, found
    return ""


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    # Beside mmengine, all in one folder.
    site = Path(sys.modules["mmengine"].__file__).parents[1]
    failures = 0
    for package in sys.argv[1:] or ("mmdet", "mmseg", "mmpretrain"):
        reasons: Counter[str] = Counter()
        paths = sorted((site / package / ".mim" / "configs").glob("*/**/*.py"))
        unreadable = 0
        for path in (one for one in paths if "_base_" not in one.parts):
            try:
                with redirect_stdout(StringIO()):
                    cfg = Config.fromfile(path)
            except Exception:  # their own faults, such as a base that the wheel lacks
                unreadable += 1
                continue
            try:
                reasons[check(cfg)] += 1
            except Exception as error:
                failures += 1
                print(f"{path}: {type(error).__name__} {error}", flush=True)
        print(
            f"{package}: {reasons.pop('', 0)} changed, {reasons.total()} refused, {unreadable} "
            "that MMEngine cannot read"
        )
        for reason, number in reasons.most_common():
            print(f"  {number:3d} {reason}")
    print(f"{failures} failures")
    sys.exit(bool(failures))


if __name__ == "__main__":
    assert mmhybrid  # which supplies what the three lack
    main()
