"""The EXPLORER_* environment variables: checked, and empty means the default."""

import pytest
from pydantic import ValidationError

from explorer.errors import format_error
from explorer.settings import Settings, settings


def test_an_empty_value_means_the_default(monkeypatch):
    for name in Settings.model_fields:
        monkeypatch.setenv(f"EXPLORER_{name.upper()}", "")
    assert settings() == Settings.model_construct(
        **{name: field.default for name, field in Settings.model_fields.items()}
    )


def test_a_value_is_read_when_it_is_needed(monkeypatch):
    monkeypatch.setenv("EXPLORER_JOBS_MAX_CONCURRENT", "3")
    assert settings().jobs_max_concurrent == 3


@pytest.mark.parametrize(
    ("name", "value"), [("JOBS_NICE", "20"), ("JOBS_WORKERS", "0"), ("RATE_LIMIT_PER_MINUTE", "x")]
)
def test_a_wrong_value_is_one_sentence(monkeypatch, name, value):
    monkeypatch.setenv(f"EXPLORER_{name}", value)
    with pytest.raises(ValidationError) as caught:
        settings()
    assert format_error(caught.value).startswith(name.lower()) and "\n" not in format_error(caught.value)


def test_command_line_names_the_wrong_setting(monkeypatch, run):
    monkeypatch.setenv("EXPLORER_JOBS_NICE", "99")
    code, out, errors = run("jobs", "list")
    assert code == 2 and not out and errors.strip().splitlines()[-1].startswith("jobs_nice")
