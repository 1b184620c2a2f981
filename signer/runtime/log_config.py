"""The services' log: to standard error, as text for people or as one JSON object per line for log collectors."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

from signer.documents import Document

VERBOSE_LOGGERS = ("uvicorn", "httpx2", "alembic", "botocore", "urllib3")
"""Libraries that log every step: only their warnings are kept."""


class LogSettings(Document):
    """Section `log`: the log of the services.

    Attributes:
        format: "text" for people, "json" for programs.
        level: the lowest level that is written.
    """

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class JsonFormatter(logging.Formatter):
    """One object per line: `at` (RFC 3339, UTC), `level`, `logger`, `thread`, `message`, and for an exception `error`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line; line feeds in the message are escaped."""
        value = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "thread": record.threadName,
            "message": record.getMessage(),
        }
        if record.exc_info:
            value["error"] = self.formatException(record.exc_info)
        return json.dumps(value, ensure_ascii=False)


def configure_logging(settings: LogSettings) -> None:
    """Configure the log of a service's process by the settings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if settings.format == "json" else logging.Formatter("%(levelname).1s %(message)s")
    )
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    for name in VERBOSE_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
