"""SIGTERM and Ctrl-C end a run in good order."""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmhybrid.engine.hooks.signal_hook import SIGNALS
from mmhybrid.weights import read_checkpoint

pytestmark = [pytest.mark.process, pytest.mark.train]


class SendSignal(Hook):
    """Sends this process a signal, in a training iteration or in a step of validation."""

    priority = "VERY_HIGH"

    def __init__(self, number: int, iteration: int, validating: bool = False) -> None:
        self.number, self.iteration, self.validating = number, iteration, validating

    def _before_iter(self, runner: Runner, *args: Any, mode: str, **kwargs: Any) -> None:
        if mode == ("val" if self.validating else "train") and runner.iter == self.iteration:
            os.kill(os.getpid(), self.number)


def weights(runner: Runner) -> list[torch.Tensor]:
    ema = next(hook for hook in runner._hooks if type(hook).__name__ == "EMAHook")
    return [*runner.model.state_dict().values(), *ema.ema_model.state_dict().values()]


@pytest.mark.parametrize(
    ("number", "iteration", "validating"),
    [(signal.SIGTERM, 8, False), (signal.SIGINT, 12, True), (signal.SIGTERM, 17, False)],
)
def test_signal_saves_and_leaves(toy_config, train, number, iteration, validating, tmp_path):
    before = signal.getsignal(number)
    whole = train(toy_config)
    assert signal.getsignal(number) is before
    toy_config.work_dir = str(tmp_path / "told to stop")
    toy_config.default_hooks.checkpoint.interval = 3
    with pytest.raises(SystemExit) as left:
        train(toy_config, SendSignal(number, iteration, validating))
    assert signal.getsignal(number) is before
    assert left.value.code == 128 + number
    path = Path(toy_config.work_dir) / "interrupted.pth"
    assert (path.parent / "last_checkpoint").read_text() == str(path)
    # The iteration in which it came was finished.
    assert read_checkpoint(path)["meta"]["iter"] == iteration + (not validating)
    resumed = train(toy_config, resume=True)
    for a, b in zip(weights(whole), weights(resumed), strict=True):
        assert torch.equal(a, b)
    assert not path.exists()


def test_handlers_go_with_a_run_that_fails(toy_config, train) -> None:
    class Fail(Hook):
        def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
            assert all(signal.getsignal(one) is not handler for one, handler in before.items())
            raise RuntimeError("the run fails")

    before = {one: signal.getsignal(one) for one in SIGNALS}
    with pytest.raises(RuntimeError, match="the run fails"):
        train(toy_config, Fail())
    assert {one: signal.getsignal(one) for one in SIGNALS} == before


def test_signal_while_the_disk_is_full(toy_config, train, monkeypatch, capfd) -> None:
    full = mock.Mock(side_effect=OSError(28, "No space left on device"))
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(SystemExit) as left:
        train(toy_config, SendSignal(signal.SIGTERM, 2))
    assert left.value.code == 143
    assert "NOT SAVED" in "".join(capfd.readouterr())


HOOK = """
import os, signal, sys, time
from mmhybrid.engine.hooks.signal_hook import SignalHook
handling = SignalHook().handle_signals()
handling.__enter__()
os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.SIGTERM)  # at once: handed on by a launcher
print("still here", flush=True)
time.sleep(1.1)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(5)
print("never printed")
"""


def test_second_signal_leaves_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", HOOK], capture_output=True, text=True)
    assert done.returncode == -signal.SIGTERM
    assert done.stdout == "still here\n"
    assert done.stderr.count("SIGTERM: saving at the end of this iteration") == 1


# In a process group of its own, which is signalled as a whole while the model computes.
GROUP = """
import os, pathlib, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
import conftest
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmhybrid.engine.runner.run_config import build_runner
from mmhybrid.engine.runner.prepare_config import with_safeguards
Runner._log_env = lambda *args: None

class SignalAll(Hook):
    def before_train_iter(self, runner, *args, **kwargs):
        if runner.iter == 7 and sys.argv[3] != "none":
            command = ["kill", "-" + sys.argv[3], "--", f"-{os.getpgrp()}"]
            subprocess.run(command, start_new_session=True)
            time.sleep(float(sys.argv[4]))  # in which workers die, if they do

cfg = conftest.make_toy_config(pathlib.Path(sys.argv[2]))
cfg.train_dataloader.update(num_workers=2, persistent_workers=True)
if sys.argv[5] != "epochs":
    conftest.count_iterations(cfg)
if sys.argv[5] == "MMEngine's":
    cfg.default_hooks.signals = dict(type="mmhybrid.SignalHook")
else:
    cfg = with_safeguards(cfg)
runner = build_runner(cfg)
runner.register_hook(SignalAll())
runner.train()
"""


@pytest.mark.parametrize(
    ("number", "pause", "loop"),
    [
        *itertools.product(SIGNALS, ["0", "1.5"], ["epochs", "iterations"]),
        (signal.SIGTERM, "1.5", "MMEngine's"),
        *itertools.product([None], ["0"], ["epochs", "iterations"]),
    ],
)
def test_signal_to_the_whole_process_group_saves(number, pause, loop, root, tmp_path) -> None:
    name = number.name[3:] if number else "none"
    words = [sys.executable, "-c", GROUP, str(root / "tests"), str(tmp_path), name, pause, loop]
    options = dict(env=os.environ | {"PYTHONPATH": str(root)}, start_new_session=True, timeout=300)
    done = subprocess.run(words, capture_output=True, text=True, **options)
    assert done.returncode == (128 + number if number else 0), done.stderr[-3000:]
    if number is None:  # workers end with the run
        last = "epoch_4.pth" if loop == "epochs" else "iter_20.pth"
        assert (tmp_path / "run" / last).exists()
        return
    assert done.stderr.count("saving at the end of this iteration") == 1
    assert read_checkpoint(tmp_path / "run" / "interrupted.pth")["meta"]["iter"] == 8
