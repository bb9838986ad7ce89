"""The mask library of the page: files that visitors upload or make by hand, results of their jobs, and bundled files.

An uploaded file is kept as `<id>.safetensors`, byte for byte, with its owner and name in `<id>.json` next to it. A
visitor's name for a file is only displayed and never used as a file name. Loads no torch.
"""

import math
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from explorer.bundled import masks as bundled
from explorer.jobs.job import Job, JobRow, result_name
from explorer.jobs.store import JobStore, StoreUnavailableError
from explorer.masks.file_format import replace_atomically
from explorer.masks.result import PruningResult, load, load_header
from explorer.pruners import method_title

Source = Literal["bundled", "job", "uploaded", "manual"]
MAX_FILE_BYTES = 5 * 2**20
MAX_PER_USER, MAX_PER_ADDRESS, MAX_TOTAL = 50, 200, 2_000  # files
MAX_BYTES_PER_ADDRESS, MAX_TOTAL_BYTES = 50 * 2**20, 500 * 2**20
PART = ".part-"  # before the name of a file that is not whole yet
JOB_PREFIX = "job-"  # before a job's id
ID = re.compile(r"[0-9a-f]{12}")


class UploadInfo(BaseModel):
    """Owner, name and source of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    owner: str = Field(max_length=64)
    name: str = Field(max_length=80)
    source: Source
    created: float


class MaskEntry(NamedTuple):
    """A file of the page: its source and its header."""

    id: str
    name: str
    source: Source
    owner: str
    path: Path
    created: float

    def open(self) -> PruningResult:
        """Read the file. Raises ValueError, in one sentence, where it is damaged."""
        return load(self.path)

    @property
    def header(self) -> Any:
        """The file's header. Raises ValueError, in one sentence, where it is damaged."""
        return _cached_header(self.path)


class MaskLibrary:
    """The files in `folder`, the results of a store's jobs, and the bundled files."""

    def __init__(self, folder: Path, store: JobStore | None = None, keep_days: float = math.inf):
        self.folder, self.store, self.keep_days = folder, store, keep_days
        self._addresses: dict[str, str] = {}  # file -> where it came from, for as long as the page runs
        with suppress(OSError):  # a full disk: then `add` says so
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(f"{PART}*"):  # of uploads that were cut off by the end of the page
                left.unlink()

    def add(self, path: str | Path, name: str, owner: str, address: str = "", source: Source = "uploaded") -> MaskEntry:
        """Keep a copy of a valid file. Raises ValueError, in one sentence, for any other and beyond the limits; then
        nothing is kept."""
        size = Path(path).stat().st_size
        if size > MAX_FILE_BYTES:
            raise ValueError(f"the file has {size / 2**20:.1f} MB; a mask may have {MAX_FILE_BYTES // 2**20} MB here")
        self._expire()
        self._check_limits(owner, address, size)
        id = uuid4().hex[:12]
        file = self._file(id)
        shown = "".join(letter for letter in name if letter.isprintable())[:80] or "without a name"
        info = UploadInfo(owner=owner, name=shown, source=source, created=time.time())
        try:
            with replace_atomically(file) as temporary:
                temporary.write_bytes(Path(path).read_bytes())
                _check_file(temporary)
                file.with_suffix(".json").write_text(info.model_dump_json(), encoding="utf-8")
        except OSError as error:
            file.with_suffix(".json").unlink(missing_ok=True)
            raise ValueError(f"the file cannot be kept: {error.strerror}; make room, then try again") from error
        self._addresses[id] = address
        return self._entry(id, info)

    def keep(self, mask: PruningResult, name: str, owner: str, address: str = "") -> MaskEntry:
        """Keep a mask that was made by hand."""
        temporary = self.folder / f"{PART}{uuid4().hex}"
        try:
            mask.save(temporary)
            return self.add(temporary, name, owner, address, "manual")
        finally:
            temporary.unlink(missing_ok=True)

    def delete(self, id: str, owner: str) -> None:
        """Delete a file. Raises ValueError for one of another visitor, and for one that is no upload."""
        info = self._info(id)
        if info is None:
            raise ValueError("only what was uploaded or made by hand can be deleted here")
        if info.owner != owner:
            raise ValueError("this file belongs to another visitor")
        self._remove(id)

    def owned_by(self, owner: str) -> list[MaskEntry]:
        """List what a visitor uploaded or made, and the results of their jobs, newest first."""
        entries = [entry for entry in self._uploads() if entry.owner == owner]
        if self.store:
            with suppress(StoreUnavailableError):  # the files are shown all the same
                rows = self.store.list_rows("done", owner=owner, limit=MAX_PER_USER)
                entries += [self._job_entry(self.store, row) for row in rows]
        return sorted(entries, key=lambda entry: -entry.created)

    def find(self, id: str) -> MaskEntry:
        """Find a file by its id, of any owner, so that a link can be shared. Raises ValueError for none."""
        info = self._info(id)
        if info is not None:
            return self._entry(id, info)
        if id.startswith(JOB_PREFIX) and self.store:
            job = self.store.get(id.removeprefix(JOB_PREFIX))
            if job.state == "done":
                return self._job_entry(self.store, job)
        for entry in bundled_entries():
            if entry.id == id:
                return entry
        raise ValueError(f"there is no mask {id[:40]!r}; it may have been deleted")

    def _check_limits(self, owner: str, address: str, size: int) -> None:
        entries = list(self._uploads())
        if sum(entry.owner == owner for entry in entries) >= MAX_PER_USER:
            raise ValueError(f"you have {MAX_PER_USER} files here, which is the limit; delete one first")
        beside = [
            entry.path.stat().st_size for entry in entries if address and self._addresses.get(entry.id) == address
        ]
        if len(beside) >= MAX_PER_ADDRESS or sum(beside) + size > MAX_BYTES_PER_ADDRESS:
            limit = f"{MAX_PER_ADDRESS} files and {MAX_BYTES_PER_ADDRESS >> 20} MB"
            raise ValueError(f"your address may have {limit} here, which is the limit; delete one first")
        if len(entries) >= MAX_TOTAL:
            raise ValueError(f"{MAX_TOTAL} files are kept here, which is the limit; please come back later")
        if sum(entry.path.stat().st_size for entry in entries) + size > MAX_TOTAL_BYTES:
            raise ValueError(f"{MAX_TOTAL_BYTES >> 20} MB are kept here, which is the limit; please come back later")

    def _expire(self) -> None:
        oldest = time.time() - self.keep_days * 86_400
        for entry in list(self._uploads()):
            if entry.created < oldest:
                self._remove(entry.id)

    def _remove(self, id: str) -> None:
        self._addresses.pop(id, None)
        self._file(id).unlink(missing_ok=True)
        self._file(id).with_suffix(".json").unlink(missing_ok=True)

    def _uploads(self) -> Iterator[MaskEntry]:
        for file in self.folder.glob("*.safetensors"):
            if info := self._info(file.stem):
                yield self._entry(file.stem, info)

    def _info(self, id: str) -> UploadInfo | None:
        if not ID.fullmatch(id) or not self._file(id).is_file():
            return None
        try:
            return UploadInfo.model_validate_json(self._file(id).with_suffix(".json").read_bytes())
        except (OSError, ValidationError):
            return None

    def _file(self, id: str) -> Path:
        return self.folder / f"{id}.safetensors"

    def _entry(self, id: str, info: UploadInfo) -> MaskEntry:
        return MaskEntry(id, info.name, info.source, info.owner, self._file(id), info.created)

    @staticmethod
    def _job_entry(store: JobStore, job: Job | JobRow) -> MaskEntry:
        path = store.results / result_name(job.id)
        return MaskEntry(f"{JOB_PREFIX}{job.id}", method_title(job.method), "job", job.owner, path, job.created)


_cached_header = lru_cache(maxsize=1000)(load_header)  # a file that is kept does not change


def _check_file(path: Path) -> None:
    """Raise ValueError, in one sentence, for a file that is no valid mask or importance."""
    try:
        result = load(path)
        mask = result.at(result.max_ratio)
        mask.macs_fraction, mask.params_fraction  # noqa: B018 (computing them is the check)
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), "the file")) from error


def bundled_entries() -> list[MaskEntry]:
    """List the bundled files."""
    headers: dict[Path, Any] = {}
    for model in bundled.MODELS:
        headers |= bundled.schedule_headers(model)
        widths = bundled.width_headers(model)
        headers |= {bundled.WIDTHS / model / f"{stem}.safetensors": header for stem, header in widths.items()}
    return [
        MaskEntry(f"{path.parent.name}/{path.stem}", path.stem, "bundled", "", path, header.created.timestamp())
        for path, header in headers.items()
    ]
