"""What a process learns from the launcher that started it."""

import os
from unittest import mock

import pytest

from mmhybrid.engine.runner.launchers import set_process_variables
from mmhybrid.errors import UserError

OURS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SLURM = dict(
    SLURM_PROCID="9",
    SLURM_LOCALID="1",
    SLURM_NTASKS="16",
    SLURM_STEP_NUM_TASKS="16",
    SLURM_STEP_NUM_NODES="2",
    SLURM_STEP_NODELIST="gpu[07-08]",
    SLURM_JOB_ID="4071",
)
MPI = dict(
    OMPI_COMM_WORLD_RANK="1",
    OMPI_COMM_WORLD_LOCAL_RANK="1",
    OMPI_COMM_WORLD_SIZE="2",
    OMPI_COMM_WORLD_LOCAL_SIZE="2",
)
SCONTROL = (
    '#!/bin/sh\n[ "$1 $2" = "show hostnames" ] && echo "$3" | sed "s/.*gpu\\[/node/; s/-.*//"\n'
)


@pytest.fixture
def environment(tmp_path):
    """Sets the whole environment to these variables, beside a Slurm of one command, or none."""

    def set_environment(has_scontrol: bool = True, **variables: str) -> None:
        os.environ.clear()
        os.environ.update(variables, LOCAL_RANK="0")  # as the tools set it
        os.environ["PATH"] = f"{tmp_path}:/usr/bin:/bin" if has_scontrol else str(tmp_path)
        (tmp_path / "scontrol").write_text(SCONTROL)
        (tmp_path / "scontrol").chmod(0o755 if has_scontrol else 0o644)

    with mock.patch.dict(os.environ):
        yield set_environment


@pytest.mark.parametrize(
    ("launcher", "given", "expected"),
    [
        ("slurm", SLURM, ["9", "1", "16", "node07", "29571"]),
        ("slurm", SLURM | dict(SLURM_STEP_NUM_NODES="1"), ["9", "1", "16", "127.0.0.1", "29571"]),
        ("slurm", SLURM | dict(MASTER_ADDR="a", MASTER_PORT="5"), ["9", "1", "16", "a", "5"]),
        ("mpi", MPI, ["1", "1", "2", "127.0.0.1", "29500"]),
        (
            "mpi",
            MPI | dict(OMPI_COMM_WORLD_SIZE="4", MASTER_ADDR="a"),
            ["1", "1", "4", "a", "29500"],
        ),
    ],
)
def test_variables(launcher, given, expected, environment) -> None:
    environment(**given)
    set_process_variables(launcher)
    assert [os.environ[name] for name in OURS] == expected


@pytest.mark.parametrize(
    ("launcher", "given", "told"),
    [
        ("pytorch", {}, "RANK, WORLD_SIZE, MASTER_ADDR .* by torchrun"),
        # In a batch script without srun, which would wait for processes that never come.
        ("slurm", dict(SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NTASKS="2"), "NUM_TASKS .* srun"),
        ("slurm", SLURM, "unknown machine; .* export MASTER_ADDR"),
        ("mpi", {}, "OMPI_COMM_WORLD_RANK, .* by Open MPI's mpirun"),
        ("mpi", MPI | dict(OMPI_COMM_WORLD_SIZE="4"), "-x MASTER_ADDR=NAME"),
    ],
)
def test_what_is_missing(launcher, given, told, environment) -> None:
    environment(has_scontrol=False, **given)
    with pytest.raises(UserError, match=told):
        set_process_variables(launcher)
