"""Writes the lock files that `make run` and `make test` install from, with uv and a network: `make lock`.

A pin stays where it still fits; `make lock UPGRADE=--upgrade` takes the newest version of everything.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUN, DEV = Path("requirements.lock"), Path("requirements-dev.lock")
# One version of torch has several builds, and each brings other packages: no list of hashes fits them all. pip installs
# them after the lock, in the version that requirements.txt pins.
UNLOCKED = re.compile(r"(torch|triton|nvidia-\S+|cuda-\S+)==")


def main(*options):
    write(RUN, "requirements.txt", options)
    keep(RUN, lambda entry: not UNLOCKED.match(entry))
    # Each file is installed without looking at dependencies, so the second holds only what the first lacks.
    run = {head(entry) for entry in entries(RUN)[1:]}
    write(DEV, "requirements-dev.txt", ["--constraint", RUN, *options])
    keep(DEV, lambda entry: not UNLOCKED.match(entry) and head(entry) not in run)


def write(lock, requirements, options):
    oldest = re.search(r'requires-python = ">=(\S+)"', (ROOT / "pyproject.toml").read_text())[1]
    command = [Path(sys.executable).with_name("uv"), "pip", "compile", "--quiet", requirements, "--output-file", lock]
    every_machine = ["--universal", "--python-version", oldest, "--no-python-downloads", "--generate-hashes"]
    shown = ["--annotation-style", "line", "--custom-compile-command", "make lock"]
    subprocess.run([*command, *every_machine, *shown, *options], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def entries(lock):
    """Return the comment at the top, then one text per package."""
    return re.split(r"^(?=[a-z0-9])", (ROOT / lock).read_text(), flags=re.MULTILINE)


def head(entry):
    return entry.splitlines()[0]  # name, version and where it is needed


def keep(lock, wanted):
    (ROOT / lock).write_text("".join(filter(wanted, entries(lock))))


if __name__ == "__main__":
    main(*sys.argv[1:])
