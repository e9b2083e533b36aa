#!/usr/bin/env python
"""Follow the README word for word in a fresh clone: every command, every config, every example.

Commands run in their order, in one clone, with the environment that the first of them makes. A
config is put beside the one it inherits from, built, and its model run. A command whose data set is
not on this machine must say so in one sentence.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def commands(text: str) -> list[str]:
    """The lines of shell, without comments, and what `pip` is to install."""
    joined = "\n".join(blocks(text, "bash")).replace("\\\n", " ")
    lines = [line.partition(" #")[0].strip() for line in joined.splitlines()]
    installs = re.findall(r"`(pip install [^`]*)`", text)
    return [line for line in lines if line and not line.startswith("#")] + installs


def place(config: str, clone: Path) -> Path:
    """A file for a config beside the one that it inherits from, here or in OpenMMLab's packages."""
    base = re.search(r'"\./([^"]+\.py)"', config)[1]
    folders = [clone / "configs", *clone.glob(".venv/lib/*/site-packages/*/.mim/configs")]
    found = [path for folder in folders for path in folder.rglob(Path(base).name)]
    beside = next(path for path in found if str(path).endswith(base))
    return beside.parents[len(Path(base).parts) - 1] / "from_the_readme.py"


def run(command: str, clone: Path) -> tuple[str, int]:
    """Run a command and show what it prints; returns the last line or the error, and exit code."""
    print(f"\n$ {command}", flush=True)
    process = subprocess.Popen(
        command, shell=True, cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    last = ""
    for line in process.stdout:
        print(line, end="", flush=True)
        if not last.startswith("error:"):
            last = line.strip() or last
    return last, process.wait()


def follow(clone: Path) -> list[tuple[str, str, bool]]:
    """Do all that the README says; returns what was done, how it ended, and if that is right."""
    text = (clone / "README.md").read_text()
    done = []
    for command in commands(text):
        start = time.perf_counter()
        last, code = run(re.sub(r"^pip", ".venv/bin/python -m pip", command), clone)
        needed = re.search(r"(?<=--data )\S+|(?<=--data-root )\S+|work_dirs/NAME/\S+", command)
        if needed and not (clone / needed[0]).exists():
            right = code == 1 and last.startswith("error:") and needed[0] in last
            done.append((command, "refused, what it names is not here", right))
        else:
            seconds = time.perf_counter() - start
            done.append((command, f"exit code {code} after {seconds:.0f} s", code == 0))
    for code in blocks(text, "python"):
        is_config = "_base_ =" in code
        path = place(code, clone) if is_config else clone / "from_the_readme.py"
        path.write_text(code)
        script = f"tools/get_flops.py {path} --shape 224" if is_config else path
        _, status = run(f".venv/bin/python {script}", clone)
        path.unlink()
        done.append((" ".join(code.split())[:60], f"exit code {status}", status == 0))
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--clone", type=Path, help="folder for the clone, kept (default: a temporary one)"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clone = args.clone or Path(folder) / "mmhybrid"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        done = follow(clone)
    print()
    for what, how, right in done:
        print(f"{'ok    ' if right else 'FAILED'} {what}: {how}")
    print(f"{sum(right for *_, right in done)} of {len(done)} as the README says")
    sys.exit(any(not right for *_, right in done))


if __name__ == "__main__":
    main()
