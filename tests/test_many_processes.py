"""Several processes compute what one does, and end together."""

import json
import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.formats import write_tiny_config

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [pytest.mark.process, pytest.mark.train]

# Run in a process of its own, which forks before PyTorch has started any thread.
BEFORE = """
import json, os, pathlib, sys
_, tests, out, *ports = sys.argv
sys.path.insert(0, tests)
import conftest, torch
torch.set_num_threads(1)
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmhybrid.engine.runner.run_config import build_runner
from mmhybrid.engine.runner.prepare_config import (
    for_its_processes, with_resume, with_safeguards)
Runner._log_env = lambda *args: None

def connect(rank, world, port):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world),
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=port)

def build(cfg):
    return build_runner(for_its_processes(with_safeguards(cfg)))

def fork(function, *args):
    child = os.fork()
    if not child:
        function(*args)
        os._exit(0)
    return child

def wait(child):
    return os.waitpid(child, 0)[1]
"""

TRAIN = """
class Keep(Hook):
    losses = []
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(float(outputs["loss"]))

def train(rank, world):
    connect(rank, world, ports[0])
    cfg = conftest.make_toy_config(pathlib.Path(out))
    cfg.launcher = "pytorch" if world > 1 else "none"
    cfg.train_dataloader.batch_size = 8 // world
    cfg.model.update(norm_cfg=dict(type="SyncBN"), dropout=0.0)
    cfg.update(val_dataloader=None, val_cfg=None, val_evaluator=None)
    runner = build(cfg)
    runner.register_hook(Keep())
    runner.train()
    model = getattr(runner.model, "module", runner.model)
    state = {key: value.tolist() for key, value in model.state_dict().items()}
    result = dict(losses=Keep.losses, state=state, norm=type(model.norm).__name__)
    pathlib.Path(out, f"result_{world}_{rank}.json").write_text(json.dumps(result))

alone = wait(fork(train, 0, 1))
pair = [fork(train, 0, 2), fork(train, 1, 2)]
sys.exit(max(alone, *map(wait, pair)) != 0)
"""

# Two processes, each with half of all parameters, that clip gradients, and then go on.
SHARDED = """
def train(folder, epochs, sharded=True, resume=False):
    cfg = conftest.make_toy_config(pathlib.Path(out, folder))
    cfg.launcher = "pytorch"
    cfg.experiment_name = f"toy_{folder}_{epochs}"
    cfg.train_cfg.max_epochs = epochs
    cfg.optim_wrapper.clip_grad = dict(max_norm=0.05)
    cfg.optim_wrapper.optimizer = dict(type="SGD", lr=0.5, momentum=0.9)
    cfg.update(custom_hooks=[])
    if sharded:
        cfg.update(runner_type="FlexibleRunner", strategy=dict(type="FSDPStrategy"))
    runner = build(with_resume(cfg, "auto") if resume else cfg)
    runner.train()
    assert sharded == (type(runner.model).__name__ == "MMFullyShardedDataParallel")
    return runner.model.state_dict() if sharded else runner.model.module.state_dict()

def work(rank):
    connect(rank, 2, ports[0])
    expected = train("whole", 2, sharded=False)
    train("sharded", 1)
    found = train("sharded", 2, resume=True)
    if rank == 0:  # which alone has all of a sharded model
        torch.testing.assert_close(dict(found), dict(expected), rtol=0, atol=1e-5)

child = fork(work, 1)
work(0)
sys.exit(wait(child) != 0)
"""

# Two processes of each launcher, which hand on what torchrun, srun and mpirun set.
LAUNCHERS = """
def given(launcher, rank, port):
    both = dict(MASTER_PORT=port, LOCAL_RANK="0")
    return both | dict(
        pytorch=dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1"),
        slurm=dict(SLURM_PROCID=rank, SLURM_LOCALID=rank, SLURM_NTASKS="2",
                   SLURM_STEP_NUM_TASKS="2", SLURM_STEP_NUM_NODES="1", SLURM_JOB_ID="3"),
        mpi=dict(OMPI_COMM_WORLD_RANK=rank, OMPI_COMM_WORLD_LOCAL_RANK=rank,
                 OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_LOCAL_SIZE="2"),
    )[launcher]

class Keep(Hook):
    losses = []
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(float(outputs["loss"]))

def train(launcher, rank, port):
    os.environ.update(given(launcher, str(rank), port))
    cfg = conftest.make_toy_config(pathlib.Path(out, launcher))
    cfg.launcher = launcher
    cfg.update(val_dataloader=None, val_cfg=None, val_evaluator=None, custom_hooks=[])
    runner = build(cfg)
    runner.register_hook(Keep())
    runner.train()
    assert (runner.rank, runner.world_size, os.environ["LOCAL_RANK"]) == (rank, 2, str(rank))
    pathlib.Path(out, f"{launcher}_{rank}.json").write_text(json.dumps(Keep.losses))

for launcher, port in zip(("pytorch", "slurm", "mpi"), ports, strict=True):
    pair = [fork(train, launcher, rank, port) for rank in (0, 1)]
    assert not any(list(map(wait, pair))), launcher
"""

# A run of two processes that is killed between two updates, and resumed.
RESUME = """
class Kill(Hook):
    priority = "LOWEST"
    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter + 1 == 4:
            raise KeyboardInterrupt

def train(folder, *hooks, resume=False):
    cfg = conftest.make_toy_config(pathlib.Path(folder))
    cfg.launcher = "pytorch"
    cfg.experiment_name = f"toy_{os.path.basename(folder)}_{resume}"
    cfg.model.update(norm_cfg=dict(type="SyncBN"))  # other statistics are each process's own
    cfg.optim_wrapper.accumulative_counts = 2
    cfg.default_hooks.checkpoint.update(interval=3, by_epoch=False)
    # 11 batches in the one process and 10 in the other.
    cfg.val_dataloader.update(
        batch_size=1, sampler=dict(type="DefaultSampler", shuffle=False, round_up=False))
    cfg.val_dataloader.dataset.data_list = cfg.val_dataloader.dataset.data_list[:21]
    runner = build(with_resume(cfg, "auto") if resume else cfg)
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    return runner.model.state_dict()

def work(rank):
    connect(rank, 2, ports[0])
    whole = train(out + "/whole")
    try:
        train(out + "/killed", Kill())
    except KeyboardInterrupt:
        pass
    resumed = train(out + "/killed", resume=True)
    for key in whole:
        assert torch.equal(whole[key], resumed[key]), key

child = fork(work, 1)
work(0)
sys.exit(wait(child) != 0)
"""


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def run(script: str, folder: Path) -> None:
    words = [str(ROOT / "tests"), str(folder), free_port(), free_port(), free_port()]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", BEFORE + script, *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what one process and two processes left."""
    folder = tmp_path_factory.mktemp("processes")
    run(TRAIN, folder)
    return folder


def test_fsdp_computes_what_whole_models_do_and_resumes(tmp_path: Path) -> None:
    run(SHARDED, tmp_path)


def test_two_processes_compute_what_one_does(trained: Path) -> None:
    files = [trained / f"result_{name}.json" for name in ("1_0", "2_0", "2_1")]
    one, *two = (json.loads(file.read_text()) for file in files)
    assert len(one["losses"]) == len(two[0]["losses"]) == 12
    assert two[0]["norm"] == "GlooSyncBatchNorm"
    for number, loss in enumerate(one["losses"]):
        mean = sum(rank["losses"][number] for rank in two) / 2
        assert mean == pytest.approx(loss, abs=1e-4)
    for rank in two:
        # Not that of the convolution, whose gradient is nothing but noise before a normalisation.
        for key in ("norm.weight", "norm.running_var", "linear.weight", "linear.bias"):
            found = torch.tensor(rank["state"][key])
            torch.testing.assert_close(found, torch.tensor(one["state"][key]), rtol=0, atol=1e-3)


def test_slurm_and_mpi_compute_what_torchrun_does(tmp_path: Path) -> None:
    run(LAUNCHERS, tmp_path)
    for rank in (0, 1):
        losses = {
            (tmp_path / f"{one}_{rank}.json").read_text() for one in ("pytorch", "slurm", "mpi")
        }
        assert len(losses) == 1
        assert len(json.loads(losses.pop())) == 12


def test_two_processes_go_on_between_two_updates(tmp_path: Path) -> None:
    run(RESUME, tmp_path)


def start_two(folder: Path, *words: str) -> subprocess.CompletedProcess:
    """``tools/dist_train.sh`` in a folder whose modules can be imported."""
    env = os.environ | {"PORT": free_port(), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    where = dict(cwd=folder, env=env | {"PYTHONPATH": f"{folder}:{ROOT}"}, timeout=600)
    command = ["bash", str(ROOT / "tools" / "dist_train.sh"), *words]
    return subprocess.run(command, capture_output=True, text=True, **where)


DIES = """
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Dies(Hook):
    def after_train_iter(self, runner, *args, **kwargs):
        if runner.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_one_process_that_dies_ends_the_others_with_the_cause(tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text(DIES)
    (tmp_path / "tiny.py").write_text(
        f"_base_ = {str(ROOT / 'configs' / 'dw_vit_t_cifar10.py')!r}\n"
        "custom_imports = dict(imports=['mmhybrid', 'dies'])\n"
        "custom_hooks = [dict(type='Dies')]\n"
        "arch = dict(_delete_=True, embed_dims=48, depth=2)\n"
        "model = dict(backbone=dict(arch=arch, patch_size=16), head=dict(in_channels=48))\n"
    )
    options = ["quick.iterations=100000", "quick.size=32", "quick.batch_size=4"]
    words = ["tiny.py", "2", "--quick", "--cfg-options", *options]
    done = start_two(tmp_path, *words)
    assert done.returncode != 0
    assert "Signal 9 (SIGKILL)" in done.stderr
    assert "rank      : 1" in done.stderr


SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
export SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NUM_NODES=1 SLURM_JOB_ID=3
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" &
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" || exit
wait -n
"""


def test_slurm_train_starts_two_processes(tmp_path: Path) -> None:
    (tmp_path / "srun").write_text(SRUN)
    (tmp_path / "srun").chmod(0o755)
    config = write_tiny_config("classification", tmp_path)
    env = os.environ | dict(PATH=f"{tmp_path}:{os.environ['PATH']}", MASTER_PORT=free_port())
    words = ["bash", ROOT / "tools" / "slurm_train.sh", "cpu", "job", config, tmp_path / "run"]
    words += ["--quick", "--verbose", "--cfg-options", "quick.iterations=2", "quick.size=32"]
    words += ["quick.train_images=8", "quick.val_images=4", "quick.batch_size=4"]
    env |= dict(GPUS="2", PYTHON=sys.executable, OMP_NUM_THREADS="1")
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Epoch(train) [1][1/1]" in done.stdout  # of the eight images, four in each process
    assert (tmp_path / "run" / "best.pth").exists()


SPY = """
import os
from mmhybrid.engine.runner import data_folder, prepare_config

def noted(module, name):
    function = getattr(module, name)
    def note(*args, **options):
        with open("calls.txt", "a") as file:
            file.write(f"{os.environ['RANK']} {name}\\n")
        return function(*args, **options)
    setattr(module, name, note)

noted(data_folder, "_prepare")
noted(prepare_config, "draw_contact_sheet")
noted(prepare_config, "write_short_config")
"""


def test_two_processes_train_on_a_folder_that_one_of_them_reads(tmp_path: Path) -> None:
    make = runpy.run_path(str(ROOT / "tests" / "make_data_folders.py"))
    make["yolo_folders"](tmp_path / "mine", make["drawn"](count=18))
    base = write_tiny_config("detection", tmp_path)
    (tmp_path / "spy.py").write_text(SPY)
    (tmp_path / "tiny.py").write_text(
        f"_base_ = {str(base)!r}\ncustom_imports = dict(imports=['mmhybrid', 'spy'])\n"
        "model = dict(test_cfg=dict(score_thr=0.0))\n"
    )
    options = ["--weights", "none", "--work-dir", "run", "--cfg-options", "recipe.iterations=4"]
    done = start_two(tmp_path, "tiny.py", "2", "--data", "mine", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    told = ["0 _prepare", "0 draw_contact_sheet", "0 write_short_config"]
    assert (tmp_path / "calls.txt").read_text().splitlines() == told
    run = tmp_path / "run"
    assert {"config.py", "labels.png", "report.html"} <= {one.name for one in run.iterdir()}
    report = json.loads((run / "report.json").read_text())
    assert report["problems"] == []
    assert report["images"] == 5  # an odd number, of which one process has three
    metrics = json.loads((run / "result.json").read_text())["metrics"]
    assert 0 <= metrics["coco/bbox_mAP"] <= 1
