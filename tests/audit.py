"""Asks pip-audit for the known vulnerabilities of what is installed, in `make lint`.

Fails for each vulnerability. Where the database answers for no package, it says so; in continuous integration that
fails too, unless no network is there.
"""

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path

PIP_AUDIT = Path(sys.executable).with_name("pip-audit")


def main():
    packages, log = audit()
    answered = [package for package in packages if "vulns" in package]
    if not answered:
        print("not audited, no package at all:", packages[0]["skip_reason"] if packages else log)
        return 1 if os.environ.get("CI") and network() else 0
    vulnerable = [package for package in answered if package["vulns"]]
    print(f"pip-audit: {len(answered)} packages audited, {len(vulnerable)} vulnerable")
    for package in packages:
        if "vulns" not in package:
            print(f"not audited: {package['name']}")
        for fault in package.get("vulns", []):
            names = ", ".join([fault["id"], *fault.get("aliases", [])])
            fixed = ", ".join(fault["fix_versions"]) or "no version"
            print(f"{package['name']} {package['version']}: {names}; fixed in {fixed}")
    return 1 if vulnerable else 0


def audit():
    """Return what pip-audit says of each package, nothing if it failed, and the last line of its log."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder, "installed.txt"), Path(folder, "answer.json")
        asked.write_text("\n".join(installed()))
        files = ["--requirement", asked, "--no-deps", "--disable-pip", "--format", "json", "--output", answer]
        command = [PIP_AUDIT, *files, "--progress-spinner", "off", "--timeout", "10"]
        log = subprocess.run(command, capture_output=True, text=True).stderr.strip()
        return json.loads(answer.read_text())["dependencies"] if answer.exists() else [], log.rpartition("\n")[2]


def installed():
    """Return a line for each package. The database knows versions, not their builds: 2.13.0, not 2.13.0+cpu."""
    return sorted({f"{package.name}=={package.version.partition('+')[0]}" for package in distributions()})


def network():
    """Return whether pip's index answers."""
    command = [sys.executable, "-m", "pip", "index", "versions", "pip-audit", "--retries", "0", "--timeout", "10"]
    return subprocess.run(command, capture_output=True).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
