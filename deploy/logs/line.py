"""One thing that happened, said by a role or written down of a request; and which of them were asked for. Pure.

Roles log a JSON object a line (`write.JsonLines`). What is none, such as a traceback or a line of an older version, is
taken as text; it belongs to the moment of the line before it.
"""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from regions.usage.record import Record
from wire.counted import counted

_OLD = re.compile(r"(\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}),(\d{3}) ([A-Z]+) \S+ (.*)", re.DOTALL)
_NAME = r"[A-Za-z0-9._-]"
REQUEST = "request"


@dataclass(frozen=True, slots=True)
class Source:
    """Whose log it is."""

    role: str
    name: str
    region: str


@dataclass(frozen=True, slots=True)
class Line:
    """`at` is Unix time; `level` in lower case, `request` for one that was written down at an engine."""

    at: float
    source: Source
    level: str
    text: str
    model: str = ""
    request_id: str = ""

    def as_value(self) -> dict[str, Any]:
        """For programs: schema `logs`."""
        return {
            "ts": datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds"),
            "level": self.level,
            "role": self.source.role,
            "name": self.source.name,
            "region": self.source.region,
            "model": self.model,
            "request_id": self.request_id,
            "message": self.text,
        }


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for; empty is everything. A request id may be shortened."""

    model: str = ""
    region: str = ""
    request: str = ""
    role: str = ""

    def has(self, line: Line) -> bool:
        """Whether a line is asked for. A model is known by its field or, as a whole name, in the text."""
        return (
            (not self.role or line.source.role == self.role)
            and (not self.region or line.source.region == self.region)
            and (not self.model or line.model == self.model or _names(line.text, self.model))
            and (not self.request or line.request_id.startswith(self.request) or self.request in line.text)
        )


def _names(text: str, model: str) -> bool:
    return re.search(rf"(?<!{_NAME}){re.escape(model)}(?!{_NAME})", text) is not None


def read(raw: str, source: Source, before: float) -> Line:
    """A line of a role's log; `before` is the time of the one before it."""
    return _of_json(raw, source) or _of_text(raw, source, before)


def _of_json(raw: str, source: Source) -> Line | None:
    if not raw.startswith("{"):
        return None
    try:
        value = json.loads(raw)
        at = datetime.fromisoformat(value["ts"]).timestamp()
        text = str(value["message"])
    except (ValueError, KeyError, TypeError):
        return None
    trace = f"\n{value['exception']}" if value.get("exception") else ""
    names = (str(value.get(name, "")) for name in ("level", "model", "request_id"))
    level, model, request_id = names
    return Line(at, source, level, text + trace, model, request_id)


def _of_text(raw: str, source: Source, before: float) -> Line:
    found = _OLD.fullmatch(raw)
    if found is None:
        return Line(before, source, "", raw)
    second, milli, level, text = found.groups()
    at = datetime.strptime(second, "%Y-%m-%d %H:%M:%S").astimezone().timestamp() + int(milli) / 1000
    return Line(at, source, level.lower(), text)


def of_record(record: Record) -> Line:
    """A request at an engine, when it had ended; its prompt is written nowhere."""
    source = Source("node", record.node, record.region)
    tokens = f"{record.prompt_tokens} + {counted(record.completion_tokens, 'token')}"
    cached = f" ({record.cached_tokens} kept)" if record.cached_tokens else ""
    text = (
        f"{record.kind} {record.outcome}: {tokens}{cached} in {record.end - record.start:.2f} s, "
        f"{record.device_us / 1e6:.3f} device-seconds, tenant {record.tenant or '-'}, key {record.key or '-'}"
    )
    return Line(record.end, source, REQUEST, text, record.model, record.request)


def shown(line: Line) -> str:
    """For people, in plain text."""
    when = datetime.fromtimestamp(line.at).astimezone().strftime("%H:%M:%S.%f")[:-3]
    who = line.source.region or line.source.role
    what = f"{line.source.role} {line.source.name}" if line.source.region else line.source.name
    about = " ".join(filter(None, (line.request_id, line.model)))
    return f"{when} {who:<6} {what:<14} {line.level:<8} {about + ': ' if about else ''}{line.text}"
