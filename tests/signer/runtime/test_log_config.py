"""The services' log: text, or one JSON object a line whatever is logged."""

import json
import logging
from collections.abc import Iterator

import pytest

from signer.runtime.log_config import LogSettings, configure_logging


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)  # not the attribute: loggers remember what they are enabled for until a level is set


def test_a_line_is_one_object_whatever_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(format="json"))
    logging.getLogger("partita.site").warning("two\nlines and %s", '"quotes"')
    try:
        int("no\nway")
    except ValueError:
        logging.getLogger("partita.site").exception("it broke")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(one["level"], one["logger"], one["message"]) for one in lines] == [
        ("warning", "partita.site", 'two\nlines and "quotes"'),
        ("error", "partita.site", "it broke"),
    ]
    assert "ValueError: invalid literal" in lines[1]["error"]
    assert lines[0]["at"].endswith("+00:00")


def test_people_get_text_and_no_chatter(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings())
    logging.getLogger("partita.catalog").info("ready")
    logging.getLogger("partita.catalog").debug("a detail")
    logging.getLogger("httpx2").info("GET /")
    assert capsys.readouterr().err == "I ready\n"


def test_a_level_is_kept_to(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(LogSettings(level="error"))
    logging.getLogger("partita.catalog").warning("nothing")
    assert capsys.readouterr().err == ""
