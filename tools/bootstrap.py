"""Makes the environment that the Makefile's commands run in.

``python tools/bootstrap.py FOLDER [STACK]`` creates a virtual environment in FOLDER and installs
mmhybrid with everything that training, testing, export, documentation and development need. STACK
is openmmlab, OpenMMLab's own packages (the default), or onedl, their maintained forks. Both install
the modules mmengine, mmcv, mmdet, ..., hence each needs an environment of its own. Uses the
standard library alone, and old syntax, so that an unfit Python can still say what is wrong.
"""

import os
import subprocess
import sys

OLDEST, NEWEST = (3, 10), (3, 12)
# Of each stack: the file of versions, and the package that shows that it is installed.
STACKS = {
    "openmmlab": ("constraints.txt", "mmengine"),
    "onedl": ("constraints-onedl.txt", "onedl-mmengine"),
}
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


def main(folder, stack):
    """Creates the environment, or exits with one sentence that says why not."""
    if stack not in STACKS:
        sys.exit("There is no stack {}; take one of: {}".format(stack, ", ".join(sorted(STACKS))))
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
    for other, (_, package) in STACKS.items():
        if other != stack and is_installed(python, package):
            sys.exit(
                "{} holds the stack {}, whose modules {} would overwrite; name another folder: "
                "make STACK={} VENV=...".format(folder, other, stack, stack)
            )
    requirements = os.path.join(ROOT, "requirements")
    command = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    command += ["-c", os.path.join(requirements, STACKS[stack][0])]
    for name in ("runtime", stack, "export", "docs", "tests"):
        command += ["-r", os.path.join(requirements, name + ".txt")]
    print("Installing (PyTorch alone is about 2 GB to download) ...", flush=True)
    run(command)
    # Without what these ask for: they would bring a second OpenCV over the first.
    run([*command[:7], "--no-deps", "-r", os.path.join(requirements, "visualize.txt")])
    print("Installing mmhybrid itself ...", flush=True)
    run([python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "-e", ROOT])


def is_installed(python, package):
    """Whether the environment of that Python holds a package."""
    code = "import sys, importlib.metadata as m; m.distribution(sys.argv[1])"
    command = [python, "-c", code, package]
    return subprocess.call(command, stderr=subprocess.DEVNULL) == 0


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
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        sys.exit(0)
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    main(os.path.abspath(sys.argv[1]), sys.argv[2] if len(sys.argv) == 3 else "openmmlab")
