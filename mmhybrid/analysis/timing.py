"""Timing and peak memory that can be trusted: compared within one run, medians, warmed up."""

import ctypes
import multiprocessing
import resource
import signal
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch


def time_interleaved(
    functions: Mapping[str, Callable[[], object]], *, repeats: int = 5, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of every call, by name; in turn, so that a drift of the machine meets all alike."""
    rounds = range(warmup + repeats)
    seconds = [[seconds_of(function) for function in functions.values()] for _ in rounds]
    columns = map(list, zip(*seconds[warmup:], strict=True))
    return dict(zip(functions, columns, strict=True))


def seconds_of(function: Callable[[], object], device: str | None = None) -> float:
    """Seconds of a call, a GPU waited for on both sides."""
    synchronise(device)
    start = time.perf_counter()
    function()
    synchronise(device)
    return time.perf_counter() - start


def ratio(seconds: Mapping[str, list[float]], slow: str, fast: str) -> float:
    """How many times as fast ``fast`` is: the median of the ratios of neighbouring calls."""
    return statistics.median(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))


def peak_memory(function: Callable[[], object], device: str) -> int:
    """Bytes that a call needs at its peak on a GPU (``'cuda:1'``), beyond those of before."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    function()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def peak_memory_of(make: Callable[..., Callable[[], object]], *args: object) -> int:
    """Bytes of the CPU's memory that the call which ``make(*args)`` returns needs at its peak.

    Beyond what is there when it is made, by the kernel's record (Linux only); MemoryError where the
    system ends the process. It is called in a new process, for which all is pickled, so that it may
    use up all memory, and may train (PyTorch cannot fork after a backward pass).
    """
    context = multiprocessing.get_context("forkserver")
    # Imported once, not in every process; what is not installed is left out.
    context.set_forkserver_preload([make.__module__, "mmdet.models", "timm"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_peak_resident, args=(sender, make, *args))
    process.start()
    sender.close()
    result = None
    with suppress(EOFError):
        result = receiver.recv()
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
        Path("/proc/self/clear_refs").write_text("5")  # resets the record
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        function()
        sender.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
    except Exception as error:
        sender.send(f"{type(error).__name__}: {error}")


def synchronise(device: str | None = None) -> None:
    """Waits until a GPU, the current one of None, has done what it was told; a CPU always has."""
    if torch.cuda.is_available() and device != "cpu":
        torch.cuda.synchronize(device)
