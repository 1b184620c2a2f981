"""Sizes and durations with their units."""

from datetime import timedelta
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from signer.documents import Document, parse_toml
from signer.errors import DocumentError
from signer.runtime.units import (
    MAX_DURATION,
    MAX_SIZE,
    ByteSetting,
    DurationText,
    SecondSetting,
    duration_text,
    parse_duration,
    parse_size,
    size_text,
)


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("0B", 0), ("512B", 512), ("4KiB", 4096), ("512 MiB", 512 << 20), ("4GiB", 4 << 30), ("64TiB", 64 << 40)],
)
def test_sizes(text: str, bytes_: int) -> None:
    assert parse_size(text) == bytes_


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("12h", 43200), ("30d", 2592000), ("2w", 1209600), ("2y", 63072000)],
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


@given(
    st.one_of(st.text(max_size=20), st.from_regex(r"[0-9]{1,20} ?(B|KiB|MiB|GiB|TiB)", fullmatch=True), st.integers())
)
def test_any_text_is_a_size_or_refused(text: object) -> None:
    try:
        found = parse_size(text)
    except ValueError as exc:
        assert "'512MiB'" in str(exc) or "more than the 64TiB" in str(exc)  # noqa: PT017 - both are right
    else:
        assert isinstance(text, str)
        assert 0 <= found <= MAX_SIZE


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


class Section(Document):
    """Settings with amounts."""

    quota: Annotated[ByteSetting, Field(ge=1 << 20)] = 1 << 30
    grace: SecondSetting = 60
    lifetime: DurationText = "1h"


@pytest.mark.parametrize(
    ("text", "quota", "grace"),
    [
        ("quota = 5000000\ngrace = 90\n", 5_000_000, 90),
        ('quota = "100GiB"\ngrace = "2h"\n', 100 << 30, 7200),
        ("", 1 << 30, 60),
    ],
)
def test_a_setting_is_a_number_or_has_a_unit(text: str, quota: int, grace: int) -> None:
    section = parse_toml(Section, text.encode(), "settings")
    assert (section.quota, section.grace, section.lifetime) == (quota, grace, "1h")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('quota = "100GB"', "$.quota"),
        ('quota = "512KiB"', "$.quota"),
        ("quota = -1", "$.quota"),
        ("grace = 1.5", "$.grace"),
        ('grace = "soon"', "$.grace"),
        ("lifetime = 5", "$.lifetime"),
        ('lifetime = "5"', "$.lifetime"),
    ],
)
def test_a_setting_that_is_none(text: str, place: str) -> None:
    with pytest.raises(DocumentError) as refused:
        parse_toml(Section, text.encode(), "settings")
    assert refused.value.path == place
