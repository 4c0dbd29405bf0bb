"""What a role logs: one JSON object a line, to standard error. No prompt and no key is ever in it."""

import json
import logging
from datetime import UTC, datetime

EXTRA = ("model", "request_id")
"""What a log call may say of itself with `extra=`."""


class JsonLines(logging.Formatter):
    """`{"ts", "level", "logger", "role", "name", "message"}`, and `exception` where there is one."""

    def __init__(self, role: str = "", name: str = "") -> None:
        super().__init__()
        self._own = {key: value for key, value in (("role", role), ("name", name)) if value}

    def format(self, record: logging.LogRecord) -> str:
        """The line of one record, without its newline."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        value = {"ts": at, "level": record.levelname.lower(), "logger": record.name, **self._own}
        value |= {name: str(getattr(record, name)) for name in EXTRA if hasattr(record, name)}
        value["message"] = record.getMessage()
        if record.exc_info:
            value["exception"] = self.formatException(record.exc_info)
        return json.dumps(value, ensure_ascii=False)


def start(role: str = "", name: str = "") -> None:
    """Log lines go to standard error from here on."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(role, name))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
