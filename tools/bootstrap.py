"""Makes the environment that the Makefile's commands run in.

``python tools/bootstrap.py FOLDER`` creates a virtual environment in FOLDER and installs mmhybrid
with everything that training, testing, export and development need, in the versions of
``requirements/constraints.txt``. Uses the standard library alone, and old syntax, so that an unfit
Python can still say what is wrong.
"""

import os
import subprocess
import sys

OLDEST, NEWEST = (3, 10), (3, 12)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NETWORK_ERRORS = (
    "Failed to establish a new connection",
    "NewConnectionError",
    "NameResolutionError",
    "Temporary failure in name resolution",
    "Network is unreachable",
    "Max retries exceeded",
    "ConnectTimeoutError",
    "ProxyError",
)


def main(folder):
    """Creates the environment, or exits with one sentence that says why not."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        sys.exit(
            "mmhybrid needs Python {}.{} to {}.{}, and {} is {}.{}. Install one of these, "
            "or name it: make PYTHON=/path/to/python3.11 ...".format(
                *(OLDEST + NEWEST + (sys.executable,) + tuple(sys.version_info[:2]))
            )
        )
    if not os.path.exists(os.path.join(folder, "pyvenv.cfg")):
        print("Creating an environment in {} ...".format(folder), flush=True)
        if subprocess.call([sys.executable, "-m", "venv", folder]) != 0:
            sys.exit("Python's venv module does not work; on Debian: apt install python3-venv")
    python = os.path.join(folder, "bin", "python")
    requirements = os.path.join(ROOT, "requirements")
    command = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    command += ["-c", os.path.join(requirements, "constraints.txt")]
    for name in ("runtime", "openmmlab", "export", "tests"):
        command += ["-r", os.path.join(requirements, name + ".txt")]
    print("Installing (PyTorch alone is about 2 GB to download) ...", flush=True)
    run(command)
    print("Installing mmhybrid itself ...", flush=True)
    run([python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "-e", ROOT])


def run(command):
    """Runs pip, shows what it prints, and explains a failure."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    printed = []
    for line in process.stdout:
        line = line.decode("utf-8", "replace")
        printed.append(line)
        if line.startswith(("Collecting", "Downloading", "Installing", "Successfully", "ERROR")):
            print("  " + line.rstrip()[:160], flush=True)
    if process.wait() == 0:
        return
    text = "".join(printed)
    if any(error in text for error in NETWORK_ERRORS):
        sys.exit(
            "The packages could not be fetched: there is no network, or no way to the package "
            "index. Behind a proxy, set HTTPS_PROXY; with a mirror, set PIP_INDEX_URL; then run it "
            "again."
        )
    sys.exit(text[-3000:] + "\npip failed; its own words are above.")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(os.path.abspath(sys.argv[1]))
