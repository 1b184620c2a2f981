"""Bencoding (BEP 3), the format of info dicts and tracker responses. Strict: a value has exactly one form."""

from typing import TypeAlias

from catalog.errors import Malformed

BencodeValue: TypeAlias = "int | bytes | list[BencodeValue] | dict[bytes, BencodeValue]"

MAX_DEPTH = 16
"""Nesting depth of lists and dictionaries. Torrents and tracker responses need half of it."""


def bencode(value: "BencodeValue | str") -> bytes:
    """Encode a value; texts become UTF-8."""
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


def bdecode(data: bytes, name: str) -> BencodeValue:
    """Decode a bencoded value.

    Args:
        data: the bytes; the caller limits their number.
        name: names the data in errors.

    Raises:
        Malformed: not exactly one value in its canonical form; the message gives the position.
    """
    value, end = _read(data, 0, name, MAX_DEPTH)
    if end != len(data):
        raise Malformed(f"{name}: byte {end}: trailing bytes after the value")
    return value


def _read(data: bytes, at: int, name: str, depth: int) -> tuple[BencodeValue, int]:
    if depth == 0:
        raise Malformed(f"{name}: byte {at}: nested more than {MAX_DEPTH} levels deep")
    match data[at : at + 1]:
        case b"i":
            return _integer(data, at + 1, b"e", name)
        case b"l":
            items: list[BencodeValue] = []
            at += 1
            while data[at : at + 1] != b"e":
                item, at = _read(data, at, name, depth - 1)
                items.append(item)
            return items, at + 1
        case b"d":
            members: dict[bytes, BencodeValue] = {}
            last: bytes | None = None
            at += 1
            while data[at : at + 1] != b"e":
                key, after = _text(data, at, name)
                if last is not None and key <= last:
                    raise Malformed(f"{name}: byte {at}: dictionary keys are not in order")
                last = key
                members[key], at = _read(data, after, name, depth - 1)
            return members, at + 1
        case _:
            return _text(data, at, name)


def _text(data: bytes, at: int, name: str) -> tuple[bytes, int]:
    if not data[at : at + 1].isdigit():
        raise Malformed(f"{name}: byte {at}: not the start of a bencoded value")
    length, start = _integer(data, at, b":", name)
    if len(data) - start < length:
        raise Malformed(f"{name}: byte {at}: a string of {length} bytes is truncated")
    return data[start : start + length], start + length


def _integer(data: bytes, at: int, end: bytes, name: str) -> tuple[int, int]:
    stop = data.find(end, at, at + 21)  # 20 characters hold every 64-bit number
    digits = data[at:stop] if stop > at else b""
    plain = digits.removeprefix(b"-")
    if not plain.isdigit() or (plain[:1] == b"0" and digits != b"0"):
        raise Malformed(f"{name}: byte {at}: not an integer in canonical form")
    return int(digits), stop + 1
