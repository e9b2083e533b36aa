"""Training goes on where its log cannot be written: the disk is full, or the folder is gone.

MMEngine's visualizer writes a line of its log after each interval, to a file or to somebody's
server, and an error of that would end the run with all that it has learned since its last
checkpoint.
"""

import functools
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger, print_log
from mmengine.runner import Runner

WRITING = ("add_config", "add_graph", "add_image", "add_scalar", "add_scalars", "close")
GUARDED = "goes_on_without_its_log"


def go_on_without_logs(runner: Runner) -> None:
    """Has a run say once that its log cannot be written, go on, and keep trying."""
    visualizer = runner.visualizer
    backends = getattr(visualizer, "_vis_backends", {})
    for backend in backends.values():
        told: list[str] = []
        for name in WRITING:
            if callable(getattr(backend, name, None)):
                _guard(backend, name, Exception, told)
    if callable(getattr(visualizer, "add_datasample", None)):
        _guard(visualizer, "add_datasample", OSError, [])
    for handler in runner.logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handleError = _tell_once(handler)


def _guard(owner: Any, name: str, errors: type[Exception], told: list[str]) -> None:
    write = getattr(owner, name)
    if hasattr(write, GUARDED):
        return

    @functools.wraps(write)
    def write_or_tell(*args: Any, **kwargs: Any) -> Any:
        try:
            try:
                result = write(*args, **kwargs)
            except FileNotFoundError as error:
                if not error.filename:
                    raise
                _make_folder_of(Path(error.filename))
                result = write(*args, **kwargs)
        except ImportError:
            raise  # a package that it needs
        except errors as error:
            if not told:
                told.append(str(error))
                text = f"{type(owner).__name__} cannot write ({type(error).__name__}: {error}). "
                text += "Training goes on without these lines of its log, and tries again."
                print_log(text, "current", logging.ERROR)
            return None
        told.clear()
        return result

    setattr(write_or_tell, GUARDED, True)
    setattr(owner, name, write_or_tell)


def _make_folder_of(file: Path) -> None:
    """Makes a folder that was moved or removed, for what is still to be logged."""
    file.parent.mkdir(parents=True, exist_ok=True)
    print_log(f"{file.parent} was gone and is made anew", "current", logging.WARNING)
    for handler in MMLogger.get_current_instance().handlers:
        if isinstance(handler, logging.FileHandler) and not Path(handler.baseFilename).exists():
            Path(handler.baseFilename).parent.mkdir(parents=True, exist_ok=True)
            handler.close()  # it opens its file when it has something to write


def _tell_once(handler: logging.FileHandler) -> Callable[[logging.LogRecord], None]:
    """In place of a traceback for each line."""
    told: list[bool] = []

    def handle_error(record: logging.LogRecord) -> None:
        if not told:
            told.append(True)
            error = sys.exc_info()[1]
            print(f"{handler.baseFilename} cannot be written: {error}", file=sys.stderr)

    return handle_error
