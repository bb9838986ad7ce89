"""requirements*.txt bound each package that is exposed, and the lock files hold what they ask for."""

import re

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.lock import DEV, ROOT, RUN, UNLOCKED, entries

# What serves HTTP, or reads bytes that a visitor, a hub or another machine sends.
EXPOSED = {
    *("gradio", "starlette", "fastapi", "uvicorn", "h11", "python-multipart", "jinja2", "orjson"),
    *("distributed", "tornado", "msgpack", "httpx", "requests", "urllib3", "idna", "certifi"),
    *("pillow", "pyarrow", "torch", "transformers", "diffusers"),
}


def requirements(name):
    """Return each requirement and its comment, behind it or in the line above, by package."""
    found, above = {}, ""
    for line in (ROOT / name).read_text().splitlines():
        asked, _, comment = line.partition("#")
        if re.match("[a-z]", asked):
            found[Requirement(asked).name] = Requirement(asked), comment or above
        above = line if line.startswith("#") else ""
    return found


def pins(lock):
    """Return the versions of each package; there are several where Python versions need different ones."""
    versions = {}
    for entry in entries(lock)[1:]:
        pin = Requirement(entry.split(" \\\n")[0])
        versions.setdefault(pin.name, []).append(Version(str(pin.specifier).removeprefix("==")))
    return versions


@pytest.mark.parametrize("name, locks", [("requirements.txt", [RUN]), ("requirements-dev.txt", [RUN, DEV])])
def test_the_lock_holds_what_is_asked_for(name, locks):
    locked = {package: versions for lock in locks for package, versions in pins(lock).items()}
    for package, (asked, _) in requirements(name).items():
        if UNLOCKED.match(f"{package}=="):
            assert str(asked.specifier).startswith("=="), f"{package} is in no lock, and its version is open"
        else:
            assert package in locked, f"make lock: {package} is missing"
            assert all(map(asked.specifier.contains, locked[package])), f"make lock: {asked} but {locked[package]}"


@pytest.mark.parametrize("lock", [RUN, DEV])
def test_each_locked_package_has_hashes_and_nothing_names_an_index(lock):
    top, *packages = entries(lock)
    assert "make lock" in top and packages
    for entry in packages:
        assert "    --hash=sha256:" in entry, entry
        assert not UNLOCKED.match(entry), entry
        assert all(line.startswith(("    --hash=", "    #")) for line in entry.splitlines()[1:]), entry
    assert not re.search("://|--[^h]| /", (ROOT / lock).read_text())


def test_each_exposed_package_is_bounded_where_its_last_known_vulnerability_was_fixed():
    asked = requirements("requirements.txt")
    for package in EXPOSED:
        requirement, comment = asked[package]
        advisory = re.search(r"(?:CVE-\d{4}-\d+|GHSA(?:-\w{4}){3}) \(([\d.]+)\)", comment)
        assert advisory, f"{package}: which vulnerability was the last one, and in which version was it fixed?"
        lowest = [Version(part.version) for part in requirement.specifier if part.operator in (">=", "==")]
        assert lowest and lowest[0] >= Version(advisory[1]), requirement
        assert package in pins(RUN) or UNLOCKED.match(f"{package}=="), f"{package} is not installed"
