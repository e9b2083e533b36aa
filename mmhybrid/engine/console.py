"""What a tool shows on the screen: its own notes, errors, warnings that matter, one progress line.

MMEngine's log file keeps all that OpenMMLab's packages say.
"""

import functools
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TextIO
from unittest import mock

from mmengine.logging import MMLogger
from tqdm import tqdm

# Packages whose messages go to the log file alone, but for what follows.
LIBRARIES = {"mmengine", "mmcv", "mmdet", "mmseg", "mmpretrain", "pycocotools", "torch", "timm"}
TELLING = ("Load checkpoint from", "resumed epoch", "Auto resumed")
# Their warnings that say nothing about the run.
CHATTER = (
    "Failed to search registry",
    '"FileClient" will be deprecated',
    "The prefix is not set",
    "is the alias of",
)
PLAIN = "{desc} {n_fmt}/{total_fmt}{postfix}, {rate_fmt}, {remaining} left"
LIVE = PLAIN.replace("{desc}", "{desc} {percentage:3.0f}% |{bar:20}|")


class ProgressLine(tqdm):
    """tqdm's bar, ``loss 0.5, 1.2it/s, 00:30 left``, on stderr.

    On a terminal one line that changes; elsewhere (a file, Slurm, CI) a line now and then: after 15
    seconds, later each tenth of the time so far, ten minutes at most.
    """

    monitor_interval = 0  # no thread, which would be there while workers of loaders are forked

    def __init__(self, iterable: Any = None, desc: str = "", **options: Any) -> None:
        self.live = sys.stderr.isatty()
        self.printed = time.monotonic()
        layout = dict(bar_format=LIVE, dynamic_ncols=True) if self.live else dict(bar_format=PLAIN)
        super().__init__(iterable, desc, leave=False, miniters=1, **layout, **options)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Shows the line, where it is time for it."""
        if self.live:
            super().display(msg, pos)
            return
        now = time.monotonic()
        if self.n == self.initial:  # tqdm has not noted the start yet, and there is nothing to tell
            return
        wait = min(600.0, max(15.0, (now - self.start_t) / 10))
        if msg is None and now - self.printed >= wait:
            self.printed = now
            print(*str(self).split(), file=self.fp, flush=True)  # without tqdm's padding

    def clear(self, nolock: bool = False) -> None:
        """Takes the line off a terminal before something else is written."""
        if self.live:
            super().clear(nolock)

    def refresh(self, nolock: bool = False, lock_args: Any = None) -> bool | None:
        """Shows the line after an update, and on a terminal (``nolock``) after something else."""
        return super().refresh(nolock, lock_args) if self.live or not nolock else None

    def close(self) -> None:
        """Takes the line off a terminal."""
        if not self.live:
            self.disable = True  # tqdm would end the line that it thinks is there
        super().close()


@contextmanager
def readable_console(verbose: bool = False, tables: bool = False) -> Iterator[None]:
    """Inside, the screen is for a person; at the end all is as it was before.

    Shown are errors, warnings but those that say nothing about the run, and what this package or
    the user's own code logs or prints. What OpenMMLab's packages and pycocotools say goes to the
    log file, and so do the Python warnings of every installed package.

    Args:
        verbose (bool): Change nothing. ``log_level='DEBUG'`` in a config shows all lines, too.
        tables (bool): Show the tables of metrics, which otherwise go to the log file, too.
    """
    if verbose:
        yield
        return
    screen, swapped, make = sys.stdout, [], MMLogger.__init__

    def swap(logger: MMLogger) -> None:
        for index, handler in enumerate(logger.handlers):
            if type(handler) is logging.StreamHandler:
                swapped.append((logger, index, handler))
                logger.handlers[index] = _ConsoleHandler(screen, handler, tables)

    @functools.wraps(make)
    def make_and_swap(logger: MMLogger, *args: Any, **options: Any) -> None:
        with redirect_stdout(screen):  # its handler keeps this one
            make(logger, *args, **options)
        swap(logger)

    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.showwarning = _log_warning
        stack.enter_context(redirect_stdout(_Screen(screen)))
        stack.enter_context(mock.patch.object(MMLogger, "__init__", make_and_swap))
        for logger in list(MMLogger._instance_dict.values()):
            swap(logger)
        try:
            yield
        finally:
            for logger, index, handler in swapped:
                logger.handlers[index] = handler


class _ConsoleHandler(logging.StreamHandler):
    """Takes the place of the handler that MMEngine's logger has for the screen."""

    def __init__(self, screen: TextIO, replaced: logging.Handler, tables: bool) -> None:
        super().__init__(screen)
        self.setLevel(replaced.level)
        self.filters = [*replaced.filters, self._is_for_the_screen]
        self.tables = tables

    def _is_for_the_screen(self, record: logging.LogRecord) -> bool:
        module, text = _who_says_it(), record.getMessage()
        if record.levelno >= logging.ERROR or self.level <= logging.DEBUG:
            return True
        if hasattr(record, "of_library"):
            return not record.of_library
        if module.partition(".")[0] not in LIBRARIES:
            return True
        if record.levelno == logging.WARNING:
            return not any(part in text for part in CHATTER)
        return text.startswith(TELLING) or (self.tables and ".evaluation." in module)

    def format(self, record: logging.LogRecord) -> str:
        """The message alone, with its level where it is a warning or more."""
        level = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return level + super().format(record)

    def emit(self, record: logging.LogRecord) -> None:
        with tqdm.external_write_mode(file=sys.stderr):
            super().emit(record)


class _Screen:
    """A stdout that hands what libraries print to the logger, line by line."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.rest = stream, ""

    def write(self, text: str) -> int:
        if _who_says_it().partition(".")[0] not in LIBRARIES:
            with tqdm.external_write_mode(file=sys.stderr):
                return self.stream.write(text)
        *lines, self.rest = (self.rest + text).split("\n")
        for line in filter(str.strip, lines):
            MMLogger.get_current_instance().info(line)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _log_warning(
    message: Warning | str, category: type[Warning], filename: str, *rest: Any, **options: Any
) -> None:
    parts = Path(filename).parts
    installed = {"site-packages", "dist-packages", *LIBRARIES} & set(parts)
    extra = dict(of_library=bool(installed) and "mmhybrid" not in parts)
    text = f"{category.__name__}: {message}"
    MMLogger.get_current_instance().warning(text, extra=extra)


def _who_says_it() -> str:
    """The module that logs or prints, without those that hand it on."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        module = frame.f_globals.get("__name__", "")
        if module not in (__name__, "logging", "mmengine.logging.logger"):
            return module
        frame = frame.f_back
    return ""
