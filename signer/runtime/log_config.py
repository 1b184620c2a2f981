"""The services' own log: to standard error, as text for people or one JSON object a line for whatever collects it."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

from signer.documents import Document

VERBOSE_LOGGERS = ("uvicorn", "httpx", "alembic", "botocore", "urllib3")
"""Libraries that tell of every step: only what they warn of is kept."""


class LogSettings(Document):
    """Section `log`: how services write what they do.

    Attributes:
        format: "text" for people, "json" for programs.
        level: the least that is written.
    """

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class JsonFormatter(logging.Formatter):
    """One object a line: `at` (RFC 3339, UTC), `level`, `logger`, `message`, and `error` with its trace if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; whatever the message holds, it is one."""
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
    """Write the log of this process as the settings say, once it is a service."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if settings.format == "json" else logging.Formatter("%(levelname).1s %(message)s")
    )
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    for name in VERBOSE_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
