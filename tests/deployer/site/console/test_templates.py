"""What pages make of values, without a service: amounts and instants, the order of roles, who holds what."""

from datetime import UTC, datetime

import pytest

from deployer.site.console import templates as pages

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        ((1 << 20) - 1, "1024 KiB"),
        (7 << 20, "7 MiB"),
        (5 << 30, "5 GiB"),
        (1 << 42, "4 TiB"),
        (1 << 50, "1024 TiB"),
    ],
)
def test_sizes_are_written_for_people(size: int, text: str) -> None:
    """Three digits and a binary unit; never as a power of ten."""
    assert pages._size(size) == text


def test_instants_are_written_for_people_and_for_programs() -> None:
    """In UTC, wherever they come from."""
    there = NOW.astimezone(tz=None)
    assert pages._when(there) == '<time datetime="2026-11-22T12:00:00Z">2026-11-22 12:00:00 UTC</time>'
    assert pages._when(None) == "never"


def test_pages_load_nothing_that_is_not_there() -> None:
    """A template that names something unknown fails, and does not show an empty place."""
    with pytest.raises(Exception, match="is undefined"):
        pages.render_page("problem.html", {"title": "x"})
    assert pages.static_file("console.py") is None
