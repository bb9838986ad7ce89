"""The last state of a search on disk, next to its result file, so that a stopped search can be resumed."""

import json
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open

from explorer.masks.file_format import write_atomic
from explorer.progress import Progress, run_to_completion

SAVE_INTERVAL_S = 30.0  # between two states on disk

Outcome = TypeVar("Outcome")


class SavedState:
    """The last state of a search that will write `out`; `about`, plain values for JSON, says what is being learned."""

    def __init__(self, out: Path, about: Mapping[str, Any]):
        self.out, self.path = out, out.with_name(f".{out.name}.state")
        self.about = json.dumps(about, sort_keys=True)
        self.is_written = False  # by this run

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the named arrays of a state. Raises ValueError where they cannot be written."""
        write_atomic(self.path, state, {"explorer": self.about})
        self.is_written = True

    def load(self) -> dict[str, Any]:
        """Read the state. Raises ValueError where there is none, or where it was learned with other settings."""
        if not self.path.is_file():
            raise ValueError(f"there is no saved state to resume from beside {self.out}")
        try:
            with safe_open(self.path, framework="numpy") as file:
                about = (file.metadata() or {}).get("explorer")
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self.path} is damaged: {error}") from error
        if about != self.about:
            raise ValueError(f"{self.path} was learned with other settings; name another --out, or leave --resume out")
        return state

    def delete(self) -> None:
        """Delete the state, if there is one."""
        self.path.unlink(missing_ok=True)


def run_with_saved_state(
    work: Generator[Progress, None, Outcome], saved: SavedState, report: Callable[[Progress], None]
) -> Outcome:
    """Drive `work` to its end; its last state is saved now and then, and where it fails or is interrupted.

    `report` is called with each progress. Whatever ends the work is raised again, after its state is saved.
    """
    state: Mapping[str, Any] | None = None
    last_save = time.monotonic()

    def save_and_report(step: Progress) -> None:
        nonlocal state, last_save
        state = step.state
        if state is not None and time.monotonic() - last_save > SAVE_INTERVAL_S:
            saved.save(state)
            last_save = time.monotonic()
        report(step)

    try:
        return run_to_completion(work, save_and_report)
    except (ValueError, KeyboardInterrupt):
        if state is not None:
            saved.save(state)
        raise
