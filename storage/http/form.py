"""multipart/form-data without I/O: bytes in; the fields before the file, then the file's bytes, out.

Only the file may be large: it is never held. What S3 ignores, the fields after the file, is skipped.
Source: RFC 7578, RFC 2046 section 5.1; https://docs.aws.amazon.com/AmazonS3/latest/API/RESTObjectPOST.html
"""

import re
from dataclasses import dataclass
from enum import Enum, auto

from storage.fault import S3Error

MAX_FIELDS_BYTES = 20 * 1024  # S3's limit on all of a form but its file
MAX_FIELDS = 128  # as many as a request may have headers
MAX_PART_HEAD_BYTES = 4096  # a name and a file name of 1,024 characters each, escaped
FILE = "file"
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_PARAMETER = re.compile(r';\s*([\w*!#$&+.^`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))')
_LINE_END = b"\r\n"


class _State(Enum):
    SKIP = auto()  # before the first boundary, and after the file
    LINE = auto()  # behind a boundary: the end of its line, or of the form
    HEAD = auto()
    FIELD = auto()
    FILE = auto()
    END = auto()


@dataclass(frozen=True, slots=True)
class Field:
    """One field before the file."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class FileBegins:
    """The file's bytes come next; `name` is what the browser calls it, without folders."""

    name: str


Event = Field | FileBegins | bytes


def boundary_of(content_type: str | None) -> bytes | None:
    """The boundary of a form; None if the type is of something else. Raises: S3Error MalformedPOSTRequest."""
    kind, parameters = _parse_parameters(content_type or "")
    if kind != "multipart/form-data":
        return None
    boundary = parameters.get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        raise _malformed("the form names no boundary")
    return boundary.encode()


class FormParser:
    """Parses one form."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = _LINE_END + b"--" + boundary
        self._state = _State.SKIP
        self._held = _LINE_END  # the first boundary needs no line before it
        self._name = ""
        self._num_fields = 0
        self._fields_bytes = 0
        self._file_seen = False
        self._steps = {
            _State.SKIP: self._skip,
            _State.LINE: self._line,
            _State.HEAD: self._head,
            _State.FIELD: self._field,
            _State.FILE: self._file,
            _State.END: self._end,
        }

    @property
    def ended(self) -> bool:
        """True once the closing boundary was seen."""
        return self._state is _State.END

    @property
    def held_bytes(self) -> int:
        """Bytes taken that nothing was given out of yet."""
        return len(self._held)

    def receive(self, data: bytes) -> list[Event]:
        """What `data` completes. Raises: S3Error MalformedPOSTRequest, MaxPostPreDataLengthExceeded."""
        self._held += data
        events: list[Event] = []
        before = None
        while before != (self._state, len(self._held)):
            before = self._state, len(self._held)
            events += self._steps[self._state]()
        return events

    def _skip(self) -> list[Event]:
        """Drop everything up to the next boundary; before the first one there is no more of it than of fields."""
        at = self._held.find(self._delimiter)
        dropped = at if at >= 0 else max(len(self._held) - len(self._delimiter), 0)
        if not self._file_seen:
            self._count(dropped)
        self._held = self._held[dropped:]
        if at >= 0:
            self._pass_boundary(0)
        return []

    def _line(self) -> list[Event]:
        """Tell a part from the end of the form. The line's end stays: a part may have no headers."""
        if self._held[:2] == b"--":
            self._state = _State.END
        elif self._held[:2] == _LINE_END:
            self._state = _State.SKIP if self._file_seen else _State.HEAD
        elif len(self._held) >= 2:
            raise _malformed("a boundary is followed by neither a line's end nor --")
        return []

    def _head(self) -> list[Event]:
        end = self._held.find(_LINE_END * 2)
        if (len(self._held) if end < 0 else end) > MAX_PART_HEAD_BYTES:
            raise _malformed("the headers of a part are too long")
        if end < 0:
            return []
        head, self._held = self._held[:end], self._held[end + 4 :]
        self._name, file_name = _disposition(head)
        self._count(end)
        if self._name == FILE:
            self._state, self._file_seen = _State.FILE, True
            return [FileBegins(file_name)]
        self._state = _State.FIELD
        return []

    def _field(self) -> list[Event]:
        at = self._held.find(self._delimiter)
        if at < 0:
            self._check_bytes(len(self._held))
            return []
        value = self._held[:at]
        self._count(at)
        self._pass_boundary(at)
        return [Field(self._name, _text(value))]

    def _file(self) -> list[Event]:
        """Give out all that can be no part of the boundary."""
        at = self._held.find(self._delimiter)
        end = at if at >= 0 else len(self._held) - len(self._delimiter) + 1
        piece, self._held = self._held[: max(end, 0)], self._held[max(end, 0) :]
        if at >= 0:
            self._pass_boundary(0)
        return [piece] if piece else []

    def _end(self) -> list[Event]:
        """What follows the closing boundary is no part of the form."""
        self._held = b""
        return []

    def _pass_boundary(self, at: int) -> None:
        self._held = self._held[at + len(self._delimiter) :]
        self._state = _State.LINE

    def _count(self, num_bytes: int) -> None:
        self._check_bytes(num_bytes)
        self._fields_bytes += num_bytes
        self._num_fields += self._state is _State.HEAD
        if self._num_fields > MAX_FIELDS:
            raise _malformed(f"the form has more than {MAX_FIELDS} fields")

    def _check_bytes(self, num_bytes: int) -> None:
        if self._fields_bytes + num_bytes > MAX_FIELDS_BYTES:
            message = "Your POST request fields preceding the upload file were too large."
            raise S3Error(
                "MaxPostPreDataLengthExceeded", message, MaxPostPreDataLengthBytes=str(MAX_FIELDS_BYTES)
            )


def _disposition(head: bytes) -> tuple[str, str]:
    """(name in lower case, file name without folders) of a part's headers. Raises: S3Error MalformedPOSTRequest."""
    for line in _text(head).split("\r\n"):
        name, _, value = line.partition(":")
        if name.strip().lower() == "content-disposition":
            kind, parameters = _parse_parameters(value)
            if kind == "form-data" and parameters.get("name"):
                return parameters["name"].lower(), re.split(r"[/\\]", parameters.get("filename", ""))[-1]
    raise _malformed("a part has no Content-Disposition: form-data with a name")


def _parse_parameters(value: str) -> tuple[str, dict[str, str]]:
    """A header's value and its parameters; a quote in a name is %22 (the HTML standard), or escaped (RFC 2046)."""
    kind, _, rest = value.partition(";")
    found = {
        match[1].lower(): match[2] if match[2] is not None else match[3]
        for match in _PARAMETER.finditer(";" + rest)
    }
    return kind.strip().lower(), {
        name: re.sub(r"%22|\\\"", '"', text) if name in {"name", "filename"} else text
        for name, text in found.items()
    }


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _malformed("a field is not valid UTF-8") from error


def _malformed(why: str) -> S3Error:
    message = "The body of your POST request is not well-formed multipart/form-data"
    return S3Error("MalformedPOSTRequest", f"{message}: {why}.")
