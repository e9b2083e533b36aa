"""A run and the folder that it is in: full or lost, copied, shared, or not its own."""

import errno
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import VISBACKENDS
from mmengine.runner import Runner
from mmengine.visualization import LocalVisBackend

from mmhybrid.engine.hooks.durable_checkpoint_hook import (
    LAST_CHECKPOINT,
    newest_whole_checkpoint,
    set_last_checkpoint,
)
from mmhybrid.engine.runner import work_dir_lock
from mmhybrid.engine.runner.prepare_config import with_resume
from mmhybrid.engine.runner.work_dir_lock import LOCK, lock_work_dir, unlock_work_dir
from mmhybrid.errors import UserError
from mmhybrid.weights import CheckpointError, read_checkpoint, write_checkpoint

pytestmark = pytest.mark.train


class At(Hook):
    """Does something after one iteration."""

    def __init__(self, iteration: int, action: Callable[[], None]) -> None:
        self.iteration, self.action = iteration, action

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 1 == self.iteration:
            self.action()


def logging_config(cfg: Config, *backends: str) -> Config:
    cfg.default_hooks.logger = dict(type="LoggerHook", interval=1)
    cfg.visualizer = dict(
        type="Visualizer", name=cfg.work_dir, vis_backends=[dict(type=one) for one in backends]
    )
    return cfg


# --- logs -----------------------------------------------------------------------------------------


@VISBACKENDS.register_module(force=True)
class Failing(LocalVisBackend):
    """Somebody's server, or a disk, that fails for a while."""

    error: Exception | None = None
    written = 0

    def add_scalars(self, *args: Any, **kwargs: Any) -> None:
        if self.error is not None:
            raise self.error
        Failing.written += 1


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), ConnectionError("no server")]
)
def test_training_goes_on_without_its_log(error, toy_config, train, monkeypatch, capfd) -> None:
    def fail(now: bool) -> None:
        monkeypatch.setattr(Failing, "error", error if now else None)

    monkeypatch.setattr(Failing, "written", 0)
    cfg = logging_config(toy_config, "Failing", "LocalVisBackend")
    runner = train(cfg, At(3, lambda: fail(True)), At(20, lambda: fail(False)))
    assert runner.iter == 24
    assert 5 < Failing.written < 14  # before and after
    assert "".join(capfd.readouterr()).count("Failing cannot write") == 1
    lines = (Path(runner.log_dir) / "vis_data" / "scalars.json").read_text().splitlines()
    assert len(lines) > 24  # the other backend's


def test_a_missing_package_of_a_log_is_still_told(toy_config, train, monkeypatch) -> None:
    monkeypatch.setattr(Failing, "error", ImportError("no package"))
    with pytest.raises(ImportError, match="no package"):
        train(logging_config(toy_config, "Failing"))


@pytest.mark.parametrize("moved", [True, False], ids=["moved", "removed"])
def test_training_goes_on_where_its_folder_is_gone(moved, toy_config, train, capfd) -> None:
    folder = Path(toy_config.work_dir)

    def lose() -> None:
        folder.rename(folder.with_name("elsewhere")) if moved else shutil.rmtree(folder)

    runner = train(logging_config(toy_config, "LocalVisBackend"), At(9, lose))
    assert read_checkpoint(newest_whole_checkpoint(str(folder)))["meta"]["iter"] == 24
    lines = (Path(runner.log_dir) / "vis_data" / "scalars.json").read_text().splitlines()
    assert len(lines) > 14
    assert "is made anew" in "".join(capfd.readouterr())


def test_a_log_file_that_cannot_be_written_is_told_once(toy_config, train, capfd) -> None:
    def fill() -> None:
        for handler in MMLogger.get_current_instance().handlers:
            if isinstance(handler, logging.FileHandler):
                handler.stream = open("/dev/full", "w")  # noqa: SIM115

    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    runner = train(logging_config(toy_config, "LocalVisBackend"), At(3, fill))
    assert runner.iter == 24
    told = "".join(capfd.readouterr())
    assert told.count("cannot be written") == 1
    assert "Logging error" not in told


def test_the_end_of_a_run_is_saved_elsewhere_where_its_folder_is_full(
    toy_config, train, monkeypatch, tmp_path, capfd
) -> None:
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    save = torch.save

    def full(value: Any, file: Any) -> None:
        if (
            value["meta"]["epoch"] == 4
            and Path(toy_config.work_dir) in Path(file.file.name).parents
        ):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(value, file)

    monkeypatch.setattr(torch, "save", full)
    train(toy_config)
    (saved,) = tmp_path.glob(f"{Path(toy_config.work_dir).name}-*/epoch_4.pth")
    assert read_checkpoint(saved)["meta"]["iter"] == 24
    assert str(saved) in "".join(capfd.readouterr())
    assert newest_whole_checkpoint(toy_config.work_dir).endswith("epoch_3.pth")


# --- which checkpoint -----------------------------------------------------------------------------


def saved(folder: Path, name: str, iteration: int, run: str = "a") -> Path:
    folder.mkdir(exist_ok=True)
    meta = dict(epoch=iteration, iter=iteration, experiment_name=run)
    write_checkpoint(dict(state_dict={}, meta=meta, message_hub={}), folder / name)
    return folder / name


def test_a_copied_folder_goes_on_from_its_own_files(tmp_path) -> None:
    path = saved(tmp_path / "first", "epoch_1.pth", 1)
    set_last_checkpoint(str(path.parent), str(path))
    copy = tmp_path / "copy"
    shutil.copytree(path.parent, copy)
    assert newest_whole_checkpoint(str(copy)) == str(copy / "epoch_1.pth")
    (copy / "epoch_1.pth").write_bytes(b"damaged")
    with pytest.raises(UserError, match="can be used"):
        newest_whole_checkpoint(str(copy))
    (copy / "epoch_1.pth").unlink()
    assert newest_whole_checkpoint(str(copy)) is None


@pytest.mark.parametrize(
    ("out", "template"), [("out", None), (None, "x_{}.pt"), ("out", "step-{:03d}")]
)
def test_what_lies_where_the_hook_was_told_to_save_is_found(
    out: str | None, template: str | None, toy_config, train, tmp_path, monkeypatch
) -> None:
    hook, work_dir = toy_config.default_hooks.checkpoint, Path(toy_config.work_dir)
    toy_config.train_cfg.max_epochs = 2
    hook.update(out_dir=out and str(tmp_path / out), filename_tmpl=template)
    train(toy_config)
    last = (work_dir / LAST_CHECKPOINT).read_text()
    assert Path(last).parent == (tmp_path / out / work_dir.name if out else work_dir)
    assert with_resume(toy_config, "auto").load_from == last
    monkeypatch.chdir(work_dir)  # a path may be relative, and a file half written
    Path(last).with_name("step-009.part").write_bytes(b"half")
    found = newest_whole_checkpoint(".", hook.out_dir, hook.filename_tmpl)
    assert found == last
    toy_config.train_cfg.max_epochs, toy_config.resume = 3, True
    seen: list[int] = []  # the run finds it too, where no path is given
    train(toy_config, At(13, lambda: seen.append(13)), At(12, lambda: seen.append(12)))
    assert seen == [13]
    hook.update(out_dir=None, filename_tmpl=None)
    with pytest.raises(UserError, match=r"names .*, which is not where this run saves"):
        with_resume(toy_config, "auto")


def test_a_save_that_was_cut_short_is_nothing_yet(tmp_path) -> None:
    (tmp_path / "step-001.part").write_bytes(b"half")
    assert newest_whole_checkpoint(str(tmp_path), None, "step-{:03d}") is None


@pytest.mark.parametrize(
    "pointer", ["missing", "no text", "a folder", "empty", "of a removed file", "outside", "older"]
)
def test_the_newest_is_told_by_its_iteration(pointer, tmp_path) -> None:
    folder = tmp_path / "run"
    newest, oldest = saved(folder, "epoch_10.pth", 10), saved(folder, "epoch_9.pth", 9)
    saved(folder, "epoch_2.pth", 2)
    saved(folder, "best_a_epoch_11.pth", 11)
    os.utime(newest, (0, 0))
    outside = saved(tmp_path, "epoch_99.pth", 99)
    place = folder / LAST_CHECKPOINT
    if pointer == "a folder":
        place.mkdir()
    elif pointer == "no text":
        place.write_bytes(b"\xff\xfe\x00\x80" * 50)
    elif pointer != "missing":
        paths = {"of a removed file": folder / "epoch_12.pth", "outside": outside, "older": oldest}
        place.write_text(str(paths.get(pointer, "")))
    assert newest_whole_checkpoint(str(folder)) == str(newest)
    newest.write_bytes(newest.read_bytes()[:-9])
    assert newest_whole_checkpoint(str(folder)) == str(oldest)


def test_a_run_that_began_anew_goes_on_from_its_own(tmp_path) -> None:
    """And not from the last file that an earlier run in this folder left."""
    saved(tmp_path / "run", "epoch_9.pth", 9, "first")
    path = saved(tmp_path / "run", "epoch_1.pth", 1, "second")
    set_last_checkpoint(str(path.parent), str(path))
    assert newest_whole_checkpoint(str(path.parent)) == str(path)


def test_a_pointer_that_cannot_be_written_loses_no_checkpoint(toy_config, train, capfd) -> None:
    (Path(toy_config.work_dir) / LAST_CHECKPOINT).mkdir(parents=True)
    train(toy_config)
    assert newest_whole_checkpoint(toy_config.work_dir).endswith("epoch_4.pth")
    told = "".join(capfd.readouterr())
    assert "last_checkpoint in" in told
    assert "NOT SAVED" not in told


def test_resuming_by_mmengines_own_option_takes_the_folders_own(toy_config, train) -> None:
    toy_config.train_cfg.max_epochs = 1
    first = Path(train(toy_config).work_dir)
    copy = first.with_name("copy")
    shutil.copytree(first, copy)
    (first / "epoch_1.pth").unlink()
    toy_config.train_cfg.max_epochs = 2
    toy_config.work_dir, toy_config.resume = str(copy), True
    assert train(toy_config).epoch == 2
    toy_config.work_dir = str(first.with_name("empty"))
    assert train(toy_config).epoch == 2  # from the beginning


# --- what cannot be resumed -----------------------------------------------------------------------


def without(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda checkpoint: checkpoint.pop(key)


def other_model(checkpoint: dict[str, Any]) -> None:
    weights = checkpoint["state_dict"]
    weights["a.b"] = weights.pop(next(iter(weights)))


def other_shape(checkpoint: dict[str, Any]) -> None:
    weights = checkpoint["state_dict"]
    weights[next(iter(weights))] = torch.ones(7, 7)


def other_optimizer(checkpoint: dict[str, Any]) -> None:
    for group in checkpoint["optimizer"]["param_groups"]:
        group["momentum"] = group.pop("betas")[0]


def fewer_parameters(checkpoint: dict[str, Any]) -> None:
    checkpoint["optimizer"]["param_groups"][0]["params"].pop()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without("optimizer"), "no optimizer"),
        (without("param_schedulers"), "no schedule"),
        (without("ema_state_dict"), "no averaged weights"),
        (without("message_hub"), "holds no message hub"),
        (lambda checkpoint: checkpoint.update(state_dict=[1]), "no weights"),
        (lambda checkpoint: checkpoint["param_schedulers"].pop(), "schedule has 1 parts and not 2"),
        (other_model, "the model lacks a.b"),
        (other_shape, "of other shapes are"),
        (other_optimizer, "its optimizer is no AdamW"),
        (fewer_parameters, "its optimizer has"),
    ],
)
def test_what_cannot_go_on_exactly_is_told_before_it_starts(
    change, told, toy_config, train, monkeypatch
) -> None:
    toy_config.train_cfg.max_epochs = 1
    train(toy_config)
    path = Path(toy_config.work_dir) / "epoch_1.pth"
    checkpoint = read_checkpoint(path)
    change(checkpoint)
    path.unlink()
    write_checkpoint(checkpoint, path.with_name("other.pth"))
    toy_config.update(resume=True, load_from=str(path.with_name("other.pth")))
    steps: list[int] = []
    with pytest.raises(CheckpointError, match=told):
        train(toy_config, At(7, lambda: steps.append(1)))
    assert not steps


# --- one run at a time ----------------------------------------------------------------------------

LOCKS = """
import sys, time
from mmhybrid.engine.runner.work_dir_lock import lock_work_dir
lock_work_dir(sys.argv[1])
print("locked", flush=True)
time.sleep(120)
"""


@pytest.mark.process
def test_two_trainings_in_one_folder(toy_config, train) -> None:
    folder = toy_config.work_dir
    run = [sys.executable, "-c", LOCKS, folder]
    with subprocess.Popen(run, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "locked\n"
            Path(folder, "epoch_1.pth.part").write_text("being written")
            with pytest.raises(UserError, match=f"another run trains in .*process {other.pid} on"):
                train(toy_config)
            assert Path(folder, "epoch_1.pth.part").exists()
        finally:
            other.kill()  # which leaves no lock
    assert train(toy_config).iter == 24
    assert folder not in work_dir_lock._held


def test_a_folder_is_free_after_a_run_however_it_ends(toy_config, train) -> None:
    def fail() -> None:
        assert os.path.realpath(toy_config.work_dir) in work_dir_lock._held
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        train(toy_config, At(1, fail))
    assert os.path.realpath(toy_config.work_dir) not in work_dir_lock._held


def test_a_fork_does_not_hold_the_lock(tmp_path) -> None:
    """As workers of a killed run may outlive it for some seconds."""
    lock_work_dir(tmp_path)
    lock_work_dir(tmp_path)
    if (child := os.fork()) == 0:
        try:
            lock_work_dir(tmp_path)
        except UserError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    unlock_work_dir(tmp_path)
    assert (tmp_path / LOCK).exists()


def test_where_there_are_no_locks_a_run_goes_on(tmp_path, monkeypatch) -> None:
    import fcntl

    def none_here(*args: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", none_here)
    lock_work_dir(tmp_path)
    assert os.path.realpath(tmp_path) not in work_dir_lock._held
