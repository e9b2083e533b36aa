"""What the command lines share. Imports nothing large."""

import argparse
import ctypes
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NEEDED = ("torch", "torchvision", "mmengine", "mmcv", "cv2", "numpy")


def prepare() -> None:
    """Make ``import mmhybrid`` work from a checkout that is not installed.

    Stops with one sentence where a package is missing that every tool needs.
    """
    # Threads that wait for each other give their processor away instead of spinning. Where another
    # program wants a processor too, spinning makes a training step more than ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()
    sys.path.insert(0, str(ROOT))
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        folder = ROOT / "requirements"
        told = f"error: {sys.executable} lacks {', '.join(missing)}. "
        if not folder.is_dir():  # installed as a package
            sys.exit(told + 'Install them: pip install "mmhybrid[det,seg,cls]"')
        sys.exit(
            f"{told}`make demo` makes an environment in .venv that has everything. For this one: "
            f"pip install -r {folder}/runtime.txt -r {folder}/openmmlab.txt "
            f"-c {folder}/constraints.txt"
        )


def keep_freed_memory() -> None:
    """Have glibc keep what PyTorch frees, for its next maps, unless the environment sets that.

    By default large blocks go back to the operating system, which fills each page of the next one
    with zeros: a third of XFormer-S's training step on a CPU, and of its forward pass at 800x1344.
    """
    names = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")
    is_set = any(name in os.environ for name in names)
    if is_set or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda *args: 0)  # other C libraries have none
    # M_MMAP_THRESHOLD, of which glibc before 2.35 takes 32 MiB at most, and no M_TRIM_THRESHOLD.
    if mallopt(-3, 2**31 - 1) or mallopt(-3, 2**25):
        mallopt(-1, -1)


def make_parser(doc: str, examples: str, **options: str) -> argparse.ArgumentParser:
    """A parser whose help begins with a tool's docstring and ends with its examples."""
    raw = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=doc, epilog=examples, formatter_class=raw, **options)


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Inside, an error raised on purpose ends the tool with its message, and Ctrl-C with 130.

    All other errors keep their traceback: they may be bugs. Checkpoints are read and written as
    :func:`mmhybrid.enable_safe_checkpoints` says.
    """
    import mmhybrid
    from mmhybrid.errors import UserError

    try:
        with mmhybrid.enable_safe_checkpoints():
            yield
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def config_file(word: str) -> str:
    """The ``type`` of an argument that may be a config of this package by its name.

    Called after :func:`prepare`.
    """
    from mmhybrid.engine.runner.named_configs import find_config

    with exit_on_user_error():
        return find_config(word)


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``, as all tools of OpenMMLab have it."""
    from mmengine.config import DictAction

    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="change the config: a.b.c=1 d='[1,2]' e=\"[(1,2),(3,4)]\", without blanks",
    )


def split_config(words: list[str]) -> tuple[str | None, list[str]]:
    """``[CONFIG] CHECKPOINT MORE...`` as CONFIG, which may be left out, and the others.

    Called after :func:`prepare`.
    """
    from mmhybrid.engine.runner.checkpoint_config import is_checkpoint
    from mmhybrid.errors import UserError

    config, others = (None, words) if is_checkpoint(words[0]) else (words[0], words[1:])
    if not others:
        raise UserError(f"name a checkpoint, after {config}")
    return config, others


class Renamed(argparse.Action):
    """The old name of an option, which goes on working for one version; ``dest`` has the new."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        new = "--" + self.dest.replace("_", "-")
        message = f"{option} is now {new}; the old name goes in version 0.3"
        # As from the tool's own file, whose warnings Python shows.
        warnings.warn_explicit(message, DeprecationWarning, sys.argv[0], 1, module="__main__")
        setattr(namespace, self.dest, values)


def check_device(name: str | None) -> None:
    """Stop with one sentence where PyTorch has no device of this name; None leaves it the choice.

    Called after :func:`prepare`, not while arguments are parsed: PyTorch is imported.
    """
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        sys.exit(f"error: --device {name} cannot be used here, and cpu can: {reason}")


def add_verbose(parser: argparse.ArgumentParser) -> None:
    """Add ``--verbose``."""
    told = "show all that OpenMMLab's packages log on the screen, not in the log file alone"
    parser.add_argument("--verbose", action="store_true", help=told)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that training and testing have in common."""
    add_verbose(parser)
    parser.add_argument(
        "--work-dir",
        help="folder to write to (default: work_dirs/CONFIG, with _FOLDER of --data and _quick)",
    )
    parser.add_argument(
        "--data",
        metavar="FOLDER",
        help="images and labels of one's own, in any format that docs/formats.md names",
    )
    parser.add_argument(
        "--ignore",
        nargs="+",
        default=[],
        metavar="CODE",
        help="problems of --data to go on in spite of, by the codes that the error gives",
    )
    parser.add_argument(
        "--data-root", help="folder that takes the place of every data_root in the config"
    )
    add_cfg_options(parser)
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="who started this process among others (default: %(default)s)",
    )
    # torch.distributed.launch writes it in either way.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
