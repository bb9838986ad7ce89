"""`make lint` fails for a known vulnerability, and where nothing was audited although a network is there."""

import json
import sys

import pytest

from tests import audit

SAFE = {"name": "gradio", "version": "6.31.0", "vulns": []}
SKIPPED = {"name": "ours", "skip_reason": "Dependency not found on PyPI and could not be audited: ours (1)"}
FAULT = {"id": "PYSEC-2", "aliases": ["CVE-2"], "fix_versions": ["13.0"]}
VULNERABLE = {"name": "pillow", "version": "12.0", "vulns": [FAULT]}


@pytest.fixture
def pip_audit(tmp_path, monkeypatch):
    """Let a program answer in the place of pip-audit."""

    def answer(packages):
        text = json.dumps({"dependencies": packages})
        code = "import sys; " + (
            f"open(sys.argv[sys.argv.index('--output') + 1], 'w').write({text!r})"
            if packages is not None
            else "sys.exit('ConnectionError: no route')"
        )
        program = tmp_path / "pip-audit"
        program.write_text(f"#!{sys.executable}\n{code}\n")
        program.chmod(0o755)
        monkeypatch.setattr(audit, "PIP_AUDIT", program)

    return answer


def test_a_vulnerability_fails_and_says_where_it_is_fixed(pip_audit, capsys):
    pip_audit([SAFE, VULNERABLE, SKIPPED])
    assert audit.main() == 1
    said = capsys.readouterr().out
    assert "2 packages audited, 1 vulnerable" in said and "not audited: ours" in said
    assert "pillow 12.0: PYSEC-2, CVE-2; fixed in 13.0" in said


def test_nothing_known_passes(pip_audit):
    pip_audit([SAFE, SKIPPED])
    assert audit.main() == 0


@pytest.mark.parametrize("packages", [None, [], [SKIPPED]])
@pytest.mark.parametrize("ci, network, code", [("true", True, 1), ("true", False, 0), ("", True, 0)])
def test_an_audit_without_answers_says_so_and_fails_in_ci_with_a_network(
    pip_audit, monkeypatch, capsys, packages, ci, network, code
):
    pip_audit(packages)
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(audit, "network", lambda: network)
    assert audit.main() == code
    said = capsys.readouterr().out
    assert said.startswith("not audited") and ("no route" in said) == (packages is None)


def test_builds_of_a_version_are_asked_for_as_that_version():
    assert any(line.startswith("torch==") for line in audit.installed())
    assert not any("+" in line for line in audit.installed())
