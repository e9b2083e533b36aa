"""A run that is killed at any moment ends as one that was not, to the last bit."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner import checkpoint as mmengine_checkpoint
from torch.utils._pytree import keystr, tree_flatten_with_path

from mmhybrid.engine.hooks.durable_checkpoint_hook import (
    DurableCheckpointHook,
    newest_whole_checkpoint,
)
from mmhybrid.engine.runner.prepare_config import with_safeguards
from mmhybrid.engine.runner.report_content import training_log
from mmhybrid.errors import UserError
from mmhybrid.weights import (
    CheckpointWriteError,
    DamagedCheckpointError,
    read_checkpoint,
    reading,
    write_checkpoint,
)
from mmhybrid.weights.writing import UNFINISHED

pytestmark = pytest.mark.train


class Killed(Exception):
    """Stands for SIGKILL; tests/torture.py sends the real one."""


class Kill(Hook):
    """Ends a run after an iteration, before anything is saved of it."""

    priority = "VERY_HIGH"

    def __init__(self, at: int) -> None:
        self.at = at

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 1 == self.at:
            raise Killed


def train_with_kills(train: Callable[..., Runner], cfg: Config, kills: tuple[int, ...]) -> Runner:
    for number, at in enumerate(kills):
        with pytest.raises(Killed):
            train(cfg, Kill(at), resume=number > 0)
    return train(cfg, resume=True)


def state(runner: Runner) -> dict[str, Any]:
    """All that a run leaves that must not depend on interruptions."""
    ema = next(hook for hook in runner._hooks if type(hook).__name__ == "EMAHook")
    return dict(
        weights=runner.model.state_dict(),
        averaged=ema.ema_model.state_dict(),
        optimizer=runner.optim_wrapper.state_dict(),
        schedule=[one.state_dict() for one in runner.param_schedulers],
        losses=runner.message_hub.get_scalar("train/loss").data,
        accuracy=runner.message_hub.get_scalar("val/accuracy").data,
    )


def assert_same(a: Any, b: Any) -> None:
    (leaves, form), (others, other_form) = (tree_flatten_with_path(one) for one in (a, b))
    assert form == other_form
    for (path, x), (_, y) in zip(leaves, others, strict=True):
        assert type(x) is type(y), keystr(path)
        assert np.array_equal(x, y), keystr(path)


CASES = {
    "epochs": ({}, (3, 14)),
    "within an epoch": ({"default_hooks.checkpoint": dict(interval=4, by_epoch=False)}, (11,)),
    "InfiniteSampler": ({"train_dataloader": dict(num_workers=2)}, (3, 14)),
    "DefaultSampler": ({}, (3, 14)),
    "accumulated gradients": (
        {"optim_wrapper.accumulative_counts": 3, "default_hooks.checkpoint.interval": 4},
        (11,),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_killed_runs_end_as_others_do(toy_config, by_iteration, train, tmp_path, case) -> None:
    settings, kills = CASES[case]
    if "epoch" not in case:
        by_iteration(toy_config, case if "Sampler" in case else "InfiniteSampler")
    toy_config.merge_from_dict(settings)
    whole = train(toy_config)
    toy_config.work_dir = str(tmp_path / "killed")
    assert_same(state(whole), state(train_with_kills(train, toy_config, kills)))


@pytest.mark.parametrize(
    ("sampler", "batches"),
    [
        ("", None),
        ("InfiniteSampler", "mmdet.AspectRatioBatchSampler"),
        ("DefaultSampler", "mmdet.AspectRatioBatchSampler"),
    ],
)
def test_workers_change_nothing(
    toy_config, by_iteration, train, tmp_path, sampler, batches
) -> None:
    loader = toy_config.train_dataloader
    if sampler:
        by_iteration(toy_config, sampler)
    if batches:
        loader.batch_sampler = dict(type=batches)
        for index, image in enumerate(loader.dataset.data_list):
            image.update(width=4 + index % 5, height=6)
    alone = train(toy_config)
    loader.update(num_workers=2, persistent_workers=True)
    toy_config.work_dir = str(tmp_path / "workers")
    assert_same(state(alone), state(train(toy_config)))


@pytest.mark.parametrize("iterations", [False, True])
def test_processes_shuffle_alike_where_their_seeds_differ(
    toy_config, by_iteration, train, monkeypatch, iterations
) -> None:
    if iterations:
        by_iteration(toy_config)
    toy_config.randomness.diff_rank_seed = True
    for module in ("mmengine.runner.utils", "mmhybrid.engine.runner.resumable_loops"):
        monkeypatch.setattr(f"{module}.get_rank", lambda: 1)
    runner = train(toy_config)
    assert runner.seed == 4
    assert runner.train_dataloader.batch_sampler.sampler.sampler.seed == 3


def test_run_of_iterations_saves_and_logs_by_iterations(toy_config, by_iteration, train) -> None:
    by_iteration(toy_config)
    toy_config.pop("default_hooks")
    runner = train_with_kills(train, toy_config, (14,))
    saved = {path.name for path in Path(toy_config.work_dir).glob("*.pth")}
    assert saved == {f"iter_{step}.pth" for step in (6, 12, 18, 20)}
    log = training_log(runner)
    assert {one["step"] for one in log["metrics"]} == {6, 12, 18, 20}
    assert log["unit"] == "iteration"
    (text,) = Path(runner.log_dir).glob("*.log")
    assert "Iter(train) [20/20]" in text.read_text()


@mock.patch("mmhybrid.engine.runner.prepare_config.print_log")
def test_checkpoints_of_iterations_that_count_epochs_are_told(log, toy_config, by_iteration):
    with_safeguards(toy_config)
    by_iteration(toy_config)
    with_safeguards(toy_config)
    log.assert_not_called()
    del toy_config.default_hooks.checkpoint["by_epoch"]
    with_safeguards(toy_config)
    assert "checkpoint counts epochs" in log.call_args.args[0]


@pytest.mark.parametrize("batches", [None, "mmdet.AspectRatioBatchSampler"])
@pytest.mark.parametrize("iterations", [False, True])
def test_safeguards_of_safeguards_are_the_same(toy_config, by_iteration, batches, iterations):
    if iterations:
        by_iteration(toy_config)
    toy_config.train_dataloader.batch_sampler = batches and dict(type=batches)
    once = with_safeguards(toy_config)
    with mock.patch("mmhybrid.engine.runner.prepare_config.print_log") as log:
        assert with_safeguards(once).to_dict() == once.to_dict()
    log.assert_not_called()


def test_resuming_with_another_batch_size_trains_every_epoch(toy_config, train, capfd) -> None:
    toy_config.train_dataloader.batch_size = 2
    toy_config.train_cfg.max_epochs = 2
    train(toy_config)  # 22 iterations
    toy_config.train_dataloader.batch_size = 4
    toy_config.train_cfg.max_epochs = 4
    assert train(toy_config, resume=True).iter == 22 + 2 * 6


def test_resuming_within_an_epoch_with_another_batch_size_begins_it_anew(toy_config, train, capfd):
    toy_config.default_hooks.checkpoint.update(interval=4, by_epoch=False)
    with pytest.raises(Killed):
        train(toy_config, Kill(11))  # saved are 8, two of the second epoch
    toy_config.train_dataloader.batch_size = 2
    assert train(toy_config, resume=True).iter == 8 + 3 * 11
    assert "Epoch 2 had 6 batches, of which 2 were seen, and now has 11" in "".join(
        capfd.readouterr()
    )


def test_the_scale_of_mixed_precision_survives(toy_config, train, tmp_path, monkeypatch) -> None:
    # MMEngine takes it for a thing of GPUs; PyTorch does not.
    module = "mmengine.optim.optimizer.amp_optimizer_wrapper"
    monkeypatch.setattr(f"{module}.is_cuda_available", lambda: True)
    monkeypatch.setattr(f"{module}.GradScaler", partial(torch.amp.GradScaler, "cpu"))
    scale = dict(init_scale=4.0, growth_interval=5)
    toy_config.optim_wrapper.update(type="AmpOptimWrapper", dtype="bfloat16", loss_scale=scale)
    whole = train(toy_config)
    scaler = whole.optim_wrapper.state_dict()["loss_scaler"]
    assert (scaler["scale"], scaler["_growth_tracker"]) == (64.0, 4)  # 24 steps
    toy_config.work_dir = str(tmp_path / "killed")
    assert_same(state(whole), state(train_with_kills(train, toy_config, (3, 14))))


def test_a_seed_that_nobody_chose_survives(toy_config, train) -> None:
    toy_config.randomness = dict(seed=None)
    with pytest.raises(Killed):
        train(toy_config, Kill(9))
    saved = read_checkpoint(newest_whole_checkpoint(toy_config.work_dir))
    toy_config.randomness = dict(seed=saved["meta"]["seed"])
    resumed = train(toy_config, resume=True)
    toy_config.work_dir += "_whole"
    assert_same(state(train(toy_config)), state(resumed))


def test_validation_that_was_missed_is_made_up_for(toy_config, train) -> None:
    class KillBeforeValidation(Hook):
        def before_val_epoch(self, runner: Runner) -> None:
            raise Killed

    with pytest.raises(Killed):
        train(toy_config, KillBeforeValidation())
    resumed = train(toy_config, resume=True)
    assert len(resumed.message_hub.get_scalar("val/accuracy").data[0]) == 4


@pytest.mark.parametrize(
    ("stop", "settings", "kills", "end"),
    [
        (dict(patience=2), {}, (9, 15), 18),
        (dict(patience=2), {"default_hooks.checkpoint.save_best": "accuracy"}, (9, 15), 18),
        (dict(patience=2), {"default_hooks.checkpoint.by_epoch": False}, (8, 14), 18),
        # The checkpoint of the validation that stops the run is the best one, too.
        (dict(stopping_threshold=-1), {"default_hooks.checkpoint.save_best": "accuracy"}, (), 6),
    ],
)
def test_an_early_stop_counts_on(
    toy_config, train, by_iteration, stop, settings, kills, end
) -> None:
    if "default_hooks.checkpoint.by_epoch" in settings:
        by_iteration(toy_config, "InfiniteSampler")
    toy_config.merge_from_dict(settings)
    # No accuracy but the first is so much progress.
    stop = dict(type="EarlyStoppingHook", monitor="accuracy", rule="greater", min_delta=2, **stop)
    toy_config.custom_hooks.append(stop)
    for at in kills:
        with pytest.raises(Killed):
            train(toy_config, Kill(at), resume=True)
    assert train(toy_config, resume=True).iter == end
    assert train(toy_config, resume=True).iter == end  # and stays stopped


def test_validation_that_was_saved_is_not_repeated(toy_config, train, tmp_path) -> None:
    class KillAfterValidation(Kill):
        priority = "LOWEST"

        def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
            if runner.iter == self.at:
                raise Killed

    toy_config.default_hooks.checkpoint.save_best = "accuracy"
    whole = train(toy_config)
    toy_config.work_dir = str(tmp_path / "killed")
    hook = KillAfterValidation(6)
    hook.after_train_iter = lambda *args, **kwargs: None
    with pytest.raises(Killed):
        train(toy_config, hook)
    assert_same(state(whole), state(train(toy_config, resume=True)))


# --- the order of writing and removing ------------------------------------------------------------


def test_mmengine_is_as_before_after_a_run_however_it_ends(toy_config, train) -> None:
    before = mmengine_checkpoint.save_checkpoint, dict(CheckpointLoader._schemes)
    with pytest.raises(Killed):
        train(toy_config, Kill(3))
    assert (mmengine_checkpoint.save_checkpoint, dict(CheckpointLoader._schemes)) == before
    train(toy_config, resume=True)
    assert (mmengine_checkpoint.save_checkpoint, dict(CheckpointLoader._schemes)) == before


def test_old_checkpoint_stays_until_the_new_one_is_whole(toy_config, train, monkeypatch) -> None:
    toy_config.default_hooks.checkpoint.max_keep_ckpts = 1
    folder = Path(toy_config.work_dir)
    seen: list[tuple[list[str], str]] = []
    replace = os.replace

    def watched(source: Any, target: Any) -> None:
        names = sorted(path.name for path in folder.glob("*.pth"))
        last = folder / "last_checkpoint"
        seen.append((names, last.read_text() if last.exists() else ""))
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    train(toy_config)
    monkeypatch.undo()
    # The second checkpoint: while it is written, and while last_checkpoint is.
    (names, last), (names_then, last_then) = seen[2:4]
    assert names == ["epoch_1.pth"]
    assert last.endswith("epoch_1.pth")
    assert names_then == ["epoch_1.pth", "epoch_2.pth"]
    assert last_then.endswith("epoch_1.pth")
    assert [path.name for path in folder.glob("*.pth")] == ["epoch_4.pth"]
    assert (folder / "last_checkpoint").read_text().endswith("epoch_4.pth")


def test_best_checkpoint_stays_until_the_next_is_whole(toy_config, train, monkeypatch) -> None:
    toy_config.default_hooks.checkpoint.update(save_best="accuracy", max_keep_ckpts=2)
    runner = train(toy_config)
    hook = next(h for h in runner._hooks if type(h).__name__ == "DurableCheckpointHook")
    (best,) = Path(toy_config.work_dir).glob("best_*")
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", disk_full)
        runner.message_hub.update_info("best_score", -1.0)
        hook.after_val_epoch(runner, dict(accuracy=0.9))
    assert list(Path(toy_config.work_dir).glob("best_*")) == [best]
    assert runner.message_hub.get_info("best_score") == -1.0
    hook.after_val_epoch(runner, dict(accuracy=0.9))
    assert runner.message_hub.get_info("best_score") == 0.9
    assert len(list(Path(toy_config.work_dir).glob("best_*"))) == 1


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["coco/cat_precision", "coco/bbox_mAP", "coco/bbox_mAP_50"], "coco/bbox_mAP"),
        (["coco/cat_precision", "coco/segm_mAP", "coco/segm_mAP_50"], "coco/segm_mAP"),
        (["aAcc", "mIoU"], "mIoU"),
        (["accuracy/top1", "accuracy/top5"], "accuracy/top1"),
    ],
)
def test_the_best_is_chosen_by_the_mean_of_the_classes(names, chosen, tmp_path) -> None:
    hook = DurableCheckpointHook(interval=1, save_best="auto")
    # A class that the images of the evaluation lack has none.
    assert hook._choose_metric(
        mock.Mock(), dict(zip(names, [float("nan"), 0.3, 0.4], strict=False))
    )
    assert hook.key_indicators == [chosen]


def test_what_a_kill_left_of_a_file_is_removed(toy_config, train) -> None:
    folder = Path(toy_config.work_dir)
    folder.mkdir()
    rest = folder / f"epoch_1.pth{UNFINISHED}"
    rest.write_bytes(b"half")
    assert newest_whole_checkpoint(toy_config.work_dir) is None
    train(toy_config)
    assert not rest.exists()


# --- full disks -----------------------------------------------------------------------------------


def disk_full(*args: Any, **kwargs: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_in(monkeypatch: Any, *epochs: int, then: Any = lambda: None) -> None:
    save = torch.save

    def sometimes_full(value: Any, file: Any) -> None:
        if value["meta"]["epoch"] in epochs:
            then()
            disk_full()
        save(value, file)

    monkeypatch.setattr(torch, "save", sometimes_full)


def test_full_disk_is_told_and_what_was_there_stays(tmp_path) -> None:
    path = tmp_path / "weights.pth"
    write_checkpoint({"a": torch.ones(3)}, path)
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    for size in (10, 10**6):
        (tmp_path / f"weights.pth{UNFINISHED}").symlink_to("/dev/full")
        with pytest.raises(CheckpointWriteError, match=r"weights\.pth: No space left.*MiB are fr"):
            write_checkpoint({"a": torch.ones(size)}, path)
    assert torch.equal(read_checkpoint(path)["a"], torch.ones(3))
    assert os.listdir(tmp_path) == ["weights.pth"]


def test_folder_without_permission_is_told(tmp_path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o500)
    if os.access(folder, os.W_OK):
        folder = tmp_path / "file"  # root may write anywhere but below a file
        folder.write_text("")
    with pytest.raises(CheckpointWriteError, match=r"cannot write .*a\.pth: (Perm|Not a dir)"):
        write_checkpoint({}, folder / "a.pth")


def test_training_survives_a_disk_that_is_full_for_a_while(toy_config, train, monkeypatch, capfd):
    toy_config.default_hooks.checkpoint.max_keep_ckpts = 1
    folder = Path(toy_config.work_dir)
    found: list[list[str]] = []

    full_in(
        monkeypatch, 2, 3, then=lambda: found.append([path.name for path in folder.glob("*.pth")])
    )
    train(toy_config)
    assert found == [["epoch_1.pth"], ["epoch_1.pth"]]
    assert [path.name for path in folder.glob("*.pth")] == ["epoch_4.pth"]
    told = "".join(capfd.readouterr())
    assert told.count("NOT SAVED: cannot write") == 2
    assert "No space left on device" in told
    assert "tries again" in told


def test_what_is_saved_at_the_end_is_named_after_the_end(toy_config, train, monkeypatch) -> None:
    toy_config.train_cfg.max_epochs = 3
    toy_config.default_hooks.checkpoint.update(interval=2, save_last=False)
    full_in(monkeypatch, 2)
    train(toy_config)
    saved = read_checkpoint(newest_whole_checkpoint(toy_config.work_dir))
    assert (saved["meta"]["epoch"], saved["meta"]["iter"]) == (3, 18)
    assert [path.name for path in Path(toy_config.work_dir).glob("*.pth")] == ["epoch_3.pth"]


def test_run_whose_end_cannot_be_saved_fails(toy_config, train, monkeypatch) -> None:
    full_in(monkeypatch, 4)
    with pytest.raises(UserError, match="last checkpoint could not be written"):
        train(toy_config)
    assert newest_whole_checkpoint(toy_config.work_dir).endswith("epoch_3.pth")


# --- damaged files --------------------------------------------------------------------------------


def test_damaged_checkpoint_is_passed_over(toy_config, train, tmp_path, capfd) -> None:
    whole = train(toy_config)
    toy_config.work_dir = str(tmp_path / "killed")
    with pytest.raises(Killed):
        train(toy_config, Kill(21))
    newest = Path(toy_config.work_dir) / "epoch_3.pth"
    content = newest.read_bytes()
    for length in (0, 1, 1000, len(content) // 2, len(content) - 1):
        newest.write_bytes(content[:length])
        assert newest_whole_checkpoint(toy_config.work_dir).endswith("epoch_2.pth")
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    newest.write_bytes(changed)
    assert_same(state(whole), state(train(toy_config, resume=True)))
    assert "Passed over: " in "".join(capfd.readouterr())


def test_resuming_compares_checksums_once_and_reads_tensors_once(toy_config, train, monkeypatch):
    with pytest.raises(Killed):
        train(toy_config, Kill(9))
    counts = dict(compared=0, read=0)

    def counted(owner: Any, function: str, name: str) -> None:
        original = getattr(owner, function)

        def count(*args: Any) -> Any:
            counts[name] += "meta" not in args
            return original(*args)

        monkeypatch.setattr(owner, function, count)

    counted(reading, "sha256_of", "compared")
    counted(torch.serialization, "_get_restore_location", "read")
    train(toy_config, resume=True)
    assert counts == dict(compared=1, read=1)


FIRST_LOOKS = """
import os, sys
import torch
from mmhybrid.engine.hooks import durable_checkpoint_hook as hook
from mmhybrid.errors import UserError
from mmhybrid.weights import read_checkpoint, reading
folder, port = sys.argv[1:]
rank = 1 if os.fork() else 0
os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
torch.distributed.init_process_group("gloo")
if rank:
    hook._newest_whole_checkpoint = None
    reading.sha256_of = None
path = hook.newest_whole_checkpoint(folder)
assert read_checkpoint(path)["meta"]["epoch"] == 4, path
torch.distributed.barrier()
if not rank:
    with open(path, "r+b") as file:
        file.truncate(100)
torch.distributed.barrier()
try:
    hook.newest_whole_checkpoint(folder)
except UserError as error:
    assert "can be used" in str(error)
    torch.distributed.barrier()
    os.write(1, b"told ")
"""


@pytest.mark.process
def test_the_first_process_looks_and_tells_the_others(toy_config, train) -> None:
    toy_config.default_hooks.checkpoint.max_keep_ckpts = 1
    train(toy_config)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    run = [sys.executable, "-c", FIRST_LOOKS, toy_config.work_dir, port]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120)
    assert done.stdout.endswith("told told "), done.stderr


def test_folder_that_was_moved_is_found(toy_config, train) -> None:
    train(toy_config)
    moved = Path(toy_config.work_dir).with_name("moved")
    Path(toy_config.work_dir).rename(moved)
    assert newest_whole_checkpoint(str(moved)) == str(moved / "epoch_4.pth")


def test_folder_of_damaged_checkpoints_is_told(toy_config, train) -> None:
    train(toy_config)
    for path in Path(toy_config.work_dir).glob("*.pth"):
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"no checkpoint in .* can be used(.|\n)*--resume"):
        newest_whole_checkpoint(toy_config.work_dir)


def test_checksum_holds_without_those_of_the_zip(tmp_path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        write_checkpoint({"a": torch.zeros(1000)}, tmp_path / "weights.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    content = bytearray((tmp_path / "weights.pth").read_bytes())
    content[2000] ^= 1
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match="SHA-256"):
        read_checkpoint(tmp_path / "weights.pth")


def test_pytorch_itself_reads_our_files(tmp_path) -> None:
    write_checkpoint({"a": torch.arange(5)}, tmp_path / "a.pth")
    for options in (dict(weights_only=True), dict(mmap=True)):
        assert torch.equal(torch.load(tmp_path / "a.pth", **options)["a"], torch.arange(5))
