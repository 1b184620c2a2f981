"""Sizes and durations with their units."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployer.units import MAX_DURATION, MAX_SIZE, duration_text, parse_duration, parse_size, size_text


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("0B", 0), ("512B", 512), ("4KiB", 4096), ("512 MiB", 512 << 20), ("4GiB", 4 << 30), ("64TiB", 64 << 40)],
)
def test_sizes(text: str, bytes_: int) -> None:
    assert parse_size(text) == bytes_


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("12h", 43200), ("30d", 2592000), ("2w", 1209600)]
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4",
        "GiB",
        "4GB",
        "4gib",
        "-4GiB",
        "4.5GiB",
        "4GiB ",
        " 4GiB",
        "4  GiB",
        "٤GiB",
        "65TiB",
        4,
        None,
        "9" * 16 + "B",
    ],
)
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"size such as|more than the 64TiB"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "4", "h", "1H", "-1h", "1.5h", "101y", "5300w", True, "1h30m"])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"duration such as|longer than"):
        parse_duration(text)


@given(st.integers(0, MAX_SIZE))
def test_a_size_is_written_as_it_is_read(size: int) -> None:
    assert parse_size(size_text(size)) == size


@given(st.integers(0, MAX_DURATION))
def test_a_duration_is_written_as_it_is_read(seconds: int) -> None:
    assert parse_duration(duration_text(seconds)) == seconds
    assert duration_text(timedelta(seconds=seconds)) == duration_text(seconds)


def test_the_shortest_exact_unit_is_used() -> None:
    assert [size_text(n) for n in (0, 1536, 4 << 30, (4 << 30) + 1)] == ["0B", "1536B", "4GiB", "4294967297B"]
    assert [duration_text(n) for n in (0, 90, 3600, 7 * 86400)] == ["0s", "90s", "1h", "7d"]
