"""What this machine remembers of an upload that is not finished, so that the next try goes on with it."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

MAX_NOTE_BYTES = 16 * 1024


class Note:
    """One object's. `upload_id`: of the try before, empty if there is none.

    `is_kept` is false where nobody will read it: an upload that fails is then to be aborted.
    """

    def __init__(self, file: BinaryIO | None = None) -> None:
        self._file = file
        self.is_kept = file is not None
        self.upload_id = _read(file) if file else ""

    def write(self, upload_id: str) -> None:
        """Remember another upload. Raises: OSError."""
        self.upload_id = upload_id
        if self._file:
            self._file.truncate(0)
            self._file.write(json.dumps({"upload_id": upload_id}).encode())
            self._file.flush()


class Notes:
    """A folder of them. A note is locked as long as its upload runs: whose lock is free has ended or was killed."""

    def __init__(self, folder: Path | None = None) -> None:
        """Without a folder nothing is remembered."""
        self._folder = folder

    @contextmanager
    def of(self, url: str, place: Mapping[str, str]) -> Iterator[Note]:
        """The note on an object (Bucket and Key) of the store at `url`; it goes if the upload comes to its end.

        One that is in another process' hands is not touched: two uploads of one object do not mix their parts.
        Raises: OSError if the folder cannot be written.
        """
        file = self._locked(url, place)
        if file is None:
            yield Note()
            return
        with file:
            yield Note(file)
            Path(file.name).unlink()

    def _locked(self, url: str, place: Mapping[str, str]) -> BinaryIO | None:
        if self._folder is None:
            return None
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        named = json.dumps([url, place["Bucket"], place["Key"]])
        path = self._folder / f"{hashlib.sha256(named.encode()).hexdigest()[:32]}.json"
        while True:
            file = path.open("a+b")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return None
            if _lies_at(path, file):
                return file
            file.close()  # whoever had it came to the end of its upload just then, and took it away


def _lies_at(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _read(file: BinaryIO) -> str:
    """What it says; one that was cut while it was written says nothing."""
    file.seek(0)
    try:
        value = json.loads(file.read(MAX_NOTE_BYTES))
    except ValueError:
        return ""
    found = value.get("upload_id") if isinstance(value, dict) else None
    return found if isinstance(found, str) else ""
