"""What visitors measured on the Features tab: files in a folder of their own, the newest ones. A session has an id."""

import os
import re
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from explorer.measures.similarity_file import Similarity

MAX_CALLS = 250  # of one measurement: a map of more is too large for a browser
MAX_TOTAL_BYTES = 200 * 2**20
ID = re.compile(r"[0-9a-f]{32}")


class MeasuredFeatures:
    """Keeps measurements until the page ends, or until newer ones need the room."""

    @cached_property
    def _folder(self) -> TemporaryDirectory:
        parent = os.environ.get("GRADIO_TEMP_DIR")
        if parent:
            Path(parent).mkdir(parents=True, exist_ok=True)
        return TemporaryDirectory(dir=parent, prefix="features-")

    def keep(self, measured: Similarity) -> str:
        """Keep a measurement; returns its id. Raises ValueError where nothing can be written."""
        id = uuid4().hex
        try:
            measured.save(self._file(id))
        except OSError as error:
            raise ValueError(f"what was measured cannot be kept: {error.strerror}; make room") from error
        room = MAX_TOTAL_BYTES
        for file in sorted(Path(self._folder.name).iterdir(), key=lambda file: -file.stat().st_mtime_ns):
            room -= file.stat().st_size
            if room < 0:
                file.unlink()
        return id

    def find(self, id: str | None) -> Similarity | None:
        """Read a measurement; None where there is none, or no longer."""
        if not isinstance(id, str) or not ID.fullmatch(id):
            return None
        with suppress(ValueError):
            return Similarity.load(self._file(id))
        return None

    def _file(self, id: str) -> Path:
        return Path(self._folder.name) / f"{id}.safetensors"
