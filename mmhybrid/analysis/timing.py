"""Timing and peak memory that can be trusted: compared within one run, medians, warmed up."""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch


def time_interleaved(
    functions: Mapping[str, Callable[[], object]], *, repeats: int = 5, warmup: int = 1
) -> dict[str, list[float]]:
    """Times functions in turn (A B A B ...), so that a drift of the machine meets all alike.

    Args:
        functions (Mapping): What to time, by name; each call must do the same work.
        repeats (int): Timed calls of each. Defaults to 5.
        warmup (int): Calls of each that are not counted. Defaults to 1.

    Returns:
        Seconds of every timed call, by name.
    """
    for function in functions.values():
        for _ in range(warmup):
            function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            seconds[name].append(seconds_of(function))
    return seconds


def seconds_of(function: Callable[[], object], device: str | None = None) -> float:
    """Seconds of a call, a GPU waited for on both sides."""
    synchronise(device)
    start = time.perf_counter()
    function()
    synchronise(device)
    return time.perf_counter() - start


def ratio(seconds: Mapping[str, list[float]], slow: str, fast: str) -> float:
    """How many times as fast ``fast`` is as ``slow``: the median of the ratios of neighbouring
    calls."""
    return statistics.median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))


def peak_memory(function: Callable[[], object], device: str) -> int:
    """Bytes that a call needs at its peak on a GPU, beyond what was there before it.

    Args:
        function (Callable): What to measure.
        device (str): Where it works, ``'cuda'``, ``'cuda:1'`` and so on.
    """
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    function()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def peak_memory_of(make: Callable[..., Callable[[], object]], *args: object) -> int:
    """Bytes of the CPU's memory that the call which ``make(*args)`` returns needs at its peak.

    It is made and called in a new process, so that it may use up all memory, and may train whatever
    this process has done before (PyTorch cannot fork after a backward pass). The kernel's record of
    the largest resident size counts, beyond what was there when it was made (Linux only).

    Args:
        make (Callable): A function of a module.
        *args: Its arguments; both are pickled.

    Raises:
        MemoryError: The system ended the process, as it does when memory runs out.
        RuntimeError: The call failed; says how.
    """
    context = multiprocessing.get_context("forkserver")
    # Imported once, not in every process; what is not installed is left out.
    context.set_forkserver_preload([make.__module__, "mmdet.models", "timm"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_peak_resident, args=(sender, make, *args))
    process.start()
    sender.close()
    try:
        result = receiver.recv()
    except EOFError:
        result = None
    process.join()
    if isinstance(result, int):
        return result
    if result is None and process.exitcode == -signal.SIGKILL:
        raise MemoryError("the system ended the measuring process")
    raise RuntimeError(f"the measured call failed: {result or f'exit {process.exitcode}'}")


def _peak_resident(sender: Connection, make: Callable[..., Any], *args: object) -> None:
    # A forked process has none of its parent's worker threads; PyTorch must not wait for them.
    torch.set_num_threads(1)
    try:
        function = make(*args)
        # Free memory that the process still holds would be used again, and not be seen.
        ctypes.CDLL(None).malloc_trim(0)
        before = _status_bytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # resets the record
        function()
        sender.send(_status_bytes("VmHWM") - before)
    except Exception as error:
        sender.send(f"{type(error).__name__}: {error}")


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: peak memory on a CPU needs Linux")


def synchronise(device: str | None = None) -> None:
    """Waits until a GPU, the current one of None, has done what it was told; a CPU always has."""
    if torch.cuda.is_available() and device != "cpu":
        torch.cuda.synchronize(device)
