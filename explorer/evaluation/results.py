"""The rows of an evaluation in their parquet file, and what they were measured with."""

import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow
import pyarrow.parquet

from explorer.masks.file_format import ModelRecord, replace_atomically

FORMAT = 2
SAMPLE = ("prompt", "seed")  # identifies a picture; with the candidate's key, a row


class Results:
    """Rows in memory and on disk; `about` says what they were measured with."""

    def __init__(self, path: Path, about: dict[str, Any], rows: pd.DataFrame):
        self.path, self.about, self.rows = path, about, rows
        self.new: list[dict[str, Any]] = []
        self.done = {tuple(row) for row in rows.loc[rows.error.isna(), ["key", *SAMPLE]].itertuples(index=False)}

    @classmethod
    def open(
        cls, path: Path, model: ModelRecord, about: dict[str, Any], resume: bool, missing: Sequence[str | None]
    ) -> "Results":
        """Begin a fresh file, or with `resume` continue the one that is there; its failed rows are tried again.

        Raises ValueError where a file is in the way, or where the one to resume was made for or with something else.
        """
        about = {"format": FORMAT, "model": model.model_dump()} | about
        machine = {"hardware": hardware(), "versions": versions(), "missing": [reason for reason in missing if reason]}
        if not path.exists():
            return cls(path, about | machine, pd.DataFrame(columns=["key", *SAMPLE, "error"]))
        check_not_in_the_way(path, resume)
        found, rows = read_results(path)
        for name, value in json.loads(json.dumps(about)).items():
            if found.get(name) != value:
                raise ValueError(f"{path} was made with {name} {found.get(name)}, not {value}; name another file")
        return cls(path, found, rows[rows.error.isna()])

    @property
    def num_rows(self) -> int:
        return len(self.rows) + len(self.new)

    def has(self, key: str, samples: Sequence[tuple[str, int]]) -> bool:
        """Say whether a candidate has generated all of these."""
        return all((key, *sample) in self.done for sample in samples)

    def add(self, rows: list[dict[str, Any]], batch: int) -> None:
        self.new += [row | {"batch": batch} for row in rows]

    def frame(self) -> pd.DataFrame:
        """Return all rows; a repeated row replaces the earlier one."""
        if self.new:
            fresh = pd.DataFrame(self.new)
            self.rows = fresh if self.rows.empty else pd.concat([self.rows, fresh], ignore_index=True)
            self.rows = self.rows.drop_duplicates(["key", *SAMPLE], keep="last", ignore_index=True)
            self.new = []
        return self.rows

    def write(self) -> None:
        """Write whole or not at all. Raises ValueError where nothing can be written."""
        _write(self.path, self.about, self.frame())


def check_not_in_the_way(path: Path, resume: bool) -> None:
    """Raise ValueError where a file is there that is not to be resumed."""
    if path.exists() and not resume:
        raise ValueError(f"{path} exists; continue it with --resume, or name another file")


def publish(source: Path, target: Path) -> None:
    """Copy the rows of `source` without the features, which only KID and FID need: small enough to ship."""
    about, rows = read_results(source)
    measures = rows.select_dtypes("float64").columns
    _write(target, about, rows.drop(columns="features", errors="ignore").astype(dict.fromkeys(measures, "float32")))


def _write(path: Path, about: dict[str, Any], rows: pd.DataFrame) -> None:
    table = pyarrow.Table.from_pandas(rows, preserve_index=False)
    table = table.replace_schema_metadata({**table.schema.metadata, b"explorer": json.dumps(about).encode()})
    try:
        with replace_atomically(path) as temporary:
            pyarrow.parquet.write_table(table, temporary, compression="zstd")
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error}") from error


def read_results(path: Path | str) -> tuple[dict[str, Any], pd.DataFrame]:
    """Read what a results file was made with, and its rows. Raises ValueError, in one sentence, for any other file."""
    try:
        table = pyarrow.parquet.read_table(path)
        about = json.loads((table.schema.metadata or {})[b"explorer"])
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path} cannot be read as results: {error}") from error
    except KeyError as error:
        raise ValueError(f"{path} is a parquet file, but holds no results of an evaluation") from error
    if about.get("format") != FORMAT:
        raise ValueError(
            f"{path} has results of format {about.get('format')}, not {FORMAT} as in this version; evaluate again"
        )
    return about, table.to_pandas().assign(model=about["model"]["id"])


def hardware() -> str:
    """Describe the machine."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    known = Path("/proc/cpuinfo")  # on Linux, where Python itself knows the architecture alone
    lines = known.read_text(encoding="utf-8").splitlines() if known.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    return f"{names[0] if names else platform.machine()}, {threads} thread{'s' * (threads > 1)}"


def versions() -> dict[str, str]:
    """Name the packages that numbers depend on."""
    return {package: version(package) for package in ("torch", "diffusers", "transformers", "torchmetrics")}
