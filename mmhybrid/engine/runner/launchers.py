"""What ``--launcher`` takes from the environment that torchrun, Slurm or Open MPI made.

MMEngine reads the same variables, but only where there are GPUs; what it lacks is added here.
"""

import os
import shutil
import subprocess

from mmhybrid.errors import UserError

# PyTorch's names of a process, each with the launcher's.
VARIABLES = {
    "pytorch": {name: name for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR")},
    # Not SLURM_NTASKS, which a batch script without srun has too.
    "slurm": dict(
        RANK="SLURM_PROCID", LOCAL_RANK="SLURM_LOCALID", WORLD_SIZE="SLURM_STEP_NUM_TASKS"
    ),
    "mpi": dict(
        RANK="OMPI_COMM_WORLD_RANK",
        LOCAL_RANK="OMPI_COMM_WORLD_LOCAL_RANK",
        WORLD_SIZE="OMPI_COMM_WORLD_SIZE",
    ),
}
STARTED_BY = {
    "pytorch": "torchrun, as tools/dist_train.sh does",
    "slurm": "srun, as tools/slurm_train.sh does",
    "mpi": "Open MPI's mpirun",
}


def set_process_variables(launcher: str) -> None:
    """Set ``RANK``, ``LOCAL_RANK``, ``WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT``.

    ``MASTER_ADDR`` and ``MASTER_PORT`` that are set already stay.

    Raises:
        UserError: The launcher did not start this process, or the first machine is not known.
    """
    missing = [name for name in VARIABLES[launcher].values() if name not in os.environ]
    if missing:
        raise UserError(
            f"--launcher {launcher} needs {', '.join(missing)} in the environment: start the "
            f"processes by {STARTED_BY[launcher]}"
        )
    for name, given in VARIABLES[launcher].items():
        os.environ[name] = os.environ[given]
    if "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"] = _first_machine(launcher)
    # Jobs that share a machine must not share a port.
    job = int(os.environ.get("SLURM_JOB_ID", 0)) if launcher == "slurm" else 0
    os.environ.setdefault("MASTER_PORT", str(29500 + job % 1000))


def _first_machine(launcher: str) -> str:
    given = os.environ.get
    if launcher == "mpi":
        has_one = given("OMPI_COMM_WORLD_LOCAL_SIZE") == given("OMPI_COMM_WORLD_SIZE")
    else:
        has_one = given("SLURM_STEP_NUM_NODES") == "1"
    if has_one:
        return "127.0.0.1"
    if launcher == "slurm" and shutil.which("scontrol"):
        words = ["scontrol", "show", "hostnames", given("SLURM_STEP_NODELIST", "")]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.split()[0]
    how = "mpirun -x MASTER_ADDR=NAME" if launcher == "mpi" else "export MASTER_ADDR=NAME"
    raise UserError(
        f"--launcher {launcher}: the first process runs on an unknown machine; name it: {how}"
    )
