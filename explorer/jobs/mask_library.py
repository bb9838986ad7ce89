"""The shelf: masks that visitors bring along or make by hand, what their jobs found, and what comes with the project.
Loads no torch.

What is brought lies in the folder as `<id>.safetensors`, the bytes as they came, and beside it `<id>.json`, whose it is
and what it is called. A name is only ever shown: no file is called what somebody says.
"""

import re
import time
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from explorer import catalogue, shipped
from explorer.files import Origin
from explorer.jobs.ledger import Job, Ledger
from explorer.masks import Header, Importance, Mask
from explorer.sites import WidthHeader
from explorer.widths import Found, WidthImportance, found_in, header_in

How = Literal["embedded", "a job's", "uploaded", "by hand"]
MOST_BYTES = 5 * 2**20  # of one file
A_VISITOR, IN_ALL = 50, 2_000  # files
JOB = "job-"  # before a job's id
ID = re.compile(r"[0-9a-f]{12}")


class Slip(BaseModel):
    """Who brought a file, and how it came."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    owner: str = Field(max_length=64)
    name: str = Field(max_length=80)
    how: How
    created: float


class Item(NamedTuple):
    """A file of the page: where it came from, and what it says of itself."""

    id: str
    name: str
    how: How
    owner: str
    path: Path
    created: float

    def open(self) -> Found:
        """Raises ValueError, in one sentence, where it is damaged."""
        return found_in(self.path)

    @property
    def header(self) -> Header | WidthHeader:
        """Raises ValueError, in one sentence, where it is damaged."""
        return _header(self.path)


class Shelf:
    """The files in `folder`, what the jobs of a ledger found, and what comes with the project."""

    def __init__(self, folder: Path, ledger: Ledger | None = None):
        self.folder, self.ledger = folder, ledger
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, path: str | Path, name: str, owner: str, how: How = "uploaded") -> Item:
        """Keep a copy of a file that is sound. Raises ValueError, in one sentence, for any other and beyond the limits;
        then nothing is kept."""
        size = Path(path).stat().st_size
        if size > MOST_BYTES:
            raise ValueError(f"the file has {size / 2**20:.1f} MB; a mask has {MOST_BYTES // 2**20} at most here")
        self._refuse_beyond_limits(owner)
        id = uuid4().hex[:12]
        file, part = self._file(id), self.folder / f".{id}.part"
        try:
            part.write_bytes(Path(path).read_bytes())
            _sound(part, path)
            shown = "".join(letter for letter in name if letter.isprintable())[:80] or "without a name"
            slip = Slip(owner=owner, name=shown, how=how, created=time.time())
            file.with_suffix(".json").write_text(slip.model_dump_json(), encoding="utf-8")
            part.replace(file)
        except OSError as error:
            file.with_suffix(".json").unlink(missing_ok=True)
            raise ValueError(f"the file cannot be kept: {error.strerror}; make room, then try again") from error
        finally:
            part.unlink(missing_ok=True)
        return self._item(id, slip)

    def keep(self, mask: Mask, name: str, owner: str) -> Item:
        """Keep a mask that was made by hand."""
        part = self.folder / f".{uuid4().hex}.made"
        try:
            mask.save(part)
            return self.add(part, name, owner, "by hand")
        finally:
            part.unlink(missing_ok=True)

    def forget(self, id: str, owner: str) -> None:
        """Delete a file. Raises ValueError for one of somebody else, and for one that nobody brought."""
        slip = self._slip(id)
        if slip is None:
            raise ValueError("only what was uploaded or made by hand is deleted here")
        if slip.owner != owner:
            raise ValueError("this file is somebody else's")
        self._file(id).unlink(missing_ok=True)
        self._file(id).with_suffix(".json").unlink(missing_ok=True)

    def own(self, owner: str) -> list[Item]:
        """What somebody brought, and what their jobs found, newest first."""
        jobs = self.ledger.jobs("done", owner=owner) if self.ledger else []
        found = [item for item in self._all() if item.owner == owner] + [self._found_by(job) for job in jobs]
        return sorted(found, key=lambda item: -item.created)

    def find(self, id: str) -> Item:
        """A file by its id, whoever brought it: an address can be handed on. Raises ValueError for none."""
        slip = self._slip(id)
        if slip is not None:
            return self._item(id, slip)
        if id.startswith(JOB) and self.ledger:
            job = self.ledger.get(id.removeprefix(JOB))
            if job.state == "done":
                return self._found_by(job)
        for item in embedded():
            if item.id == id:
                return item
        raise ValueError(f"there is no mask {id[:40]!r}; it may have been deleted")

    def _refuse_beyond_limits(self, owner: str) -> None:
        there = list(self._all())
        if sum(item.owner == owner for item in there) >= A_VISITOR:
            raise ValueError(f"you have {A_VISITOR} files here, which is the most; delete one first")
        if len(there) >= IN_ALL:
            raise ValueError(f"{IN_ALL} files are kept here, which is the most; please come back later")

    def _all(self) -> Iterator[Item]:
        for file in self.folder.glob("*.safetensors"):
            if slip := self._slip(file.stem):
                yield self._item(file.stem, slip)

    def _slip(self, id: str) -> Slip | None:
        if not ID.fullmatch(id) or not self._file(id).is_file():
            return None
        try:
            return Slip.model_validate_json(self._file(id).with_suffix(".json").read_bytes())
        except (OSError, ValidationError):
            return None

    def _file(self, id: str) -> Path:
        return self.folder / f"{id}.safetensors"

    def _found_by(self, job: Job) -> Item:
        path = self.ledger.results / (job.result or "none")
        return Item(f"{JOB}{job.id}", job.method, "a job's", job.owner, path, job.created)

    def _item(self, id: str, slip: Slip) -> Item:
        return Item(id, slip.name, slip.how, slip.owner, self._file(id), slip.created)


_header = lru_cache(maxsize=1000)(header_in)  # a file that is kept does not change


def _sound(part: Path, path: str | Path) -> None:
    """Raise ValueError, in one sentence, for a file that is not a sound mask or importance."""
    try:
        found = found_in(part)
        found.at(found.header.max_ratio) if isinstance(found, Importance | WidthImportance) else found.kept
    except ValueError as error:
        raise ValueError(str(error).replace(str(part), "the file")) from error


def embedded() -> list[Item]:
    """The files that come with the project."""
    found: dict[Path, Origin] = {}
    for model in catalogue.EMBEDDED:
        found |= shipped.headers(model)
        there: Mapping[str, Origin] = shipped.widths(model)
        found |= {shipped.WIDTHS / model / f"{stem}.safetensors": header for stem, header in there.items()}
    return [
        Item(f"{path.parent.name}/{path.stem}", path.stem, "embedded", "", path, header.created.timestamp())
        for path, header in found.items()
    ]
