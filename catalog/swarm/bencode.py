"""Bencoding (BEP 3): the form of info dicts and of what trackers say. Strict: one value has one form."""

from typing import TypeAlias

from catalog.errors import Malformed

BencodeValue: TypeAlias = "int | bytes | list[BencodeValue] | dict[bytes, BencodeValue]"

MAX_DEPTH = 16
"""Lists and dictionaries in each other. Torrents and tracker answers nest half as deep."""


def bencode(value: "BencodeValue | str") -> bytes:
    """The one bencoded form of a value; texts become UTF-8."""
    parts: list[bytes] = []
    _write(value, parts)
    return b"".join(parts)


def _write(value: "BencodeValue | str", parts: list[bytes]) -> None:
    match value:
        case bool():
            raise TypeError("bencoding has no booleans")
        case int():
            parts.append(b"i%de" % value)
        case str():
            _write(value.encode(), parts)
        case bytes():
            parts += (b"%d:" % len(value), value)
        case list():
            parts.append(b"l")
            for item in value:
                _write(item, parts)
            parts.append(b"e")
        case dict():
            parts.append(b"d")
            for key in sorted(value):
                _write(key, parts)
                _write(value[key], parts)
            parts.append(b"e")


def bdecode(data: bytes, what: str) -> BencodeValue:
    """Read a bencoded value.

    Args:
        data: the bytes, of which the caller has bounded the number.
        what: how to call it in errors.

    Raises:
        Malformed: anything but the one form of one value, with the place.
    """
    value, end = _read(data, 0, what, MAX_DEPTH)
    if end != len(data):
        raise Malformed(f"{what}: byte {end}: there is more after the end of the value")
    return value


def _read(data: bytes, at: int, what: str, depth: int) -> tuple[BencodeValue, int]:
    if depth == 0:
        raise Malformed(f"{what}: byte {at}: is nested more than {MAX_DEPTH} deep")
    match data[at : at + 1]:
        case b"i":
            return _integer(data, at + 1, b"e", what)
        case b"l":
            items: list[BencodeValue] = []
            at += 1
            while data[at : at + 1] != b"e":
                item, at = _read(data, at, what, depth - 1)
                items.append(item)
            return items, at + 1
        case b"d":
            members: dict[bytes, BencodeValue] = {}
            last: bytes | None = None
            at += 1
            while data[at : at + 1] != b"e":
                key, after = _text(data, at, what)
                if last is not None and key <= last:
                    raise Malformed(f"{what}: byte {at}: the keys of a dictionary are not in order")
                last = key
                members[key], at = _read(data, after, what, depth - 1)
            return members, at + 1
        case _:
            return _text(data, at, what)


def _text(data: bytes, at: int, what: str) -> tuple[bytes, int]:
    if not data[at : at + 1].isdigit():
        raise Malformed(f"{what}: byte {at}: no bencoded value begins here")
    length, start = _integer(data, at, b":", what)
    if len(data) - start < length:
        raise Malformed(f"{what}: byte {at}: a text of {length} bytes is cut short")
    return data[start : start + length], start + length


def _integer(data: bytes, at: int, end: bytes, what: str) -> tuple[int, int]:
    stop = data.find(end, at, at + 21)  # 20 characters hold every 64-bit number
    digits = data[at:stop] if stop > at else b""
    plain = digits.removeprefix(b"-")
    if not plain.isdigit() or (plain[:1] == b"0" and digits != b"0"):
        raise Malformed(f"{what}: byte {at}: is not an integer in its one form")
    return int(digits), stop + 1
