"""Only version 4 signature packets make a signature file."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from signer.errors import SignatureError
from signer.openpgp.packets import MAX_SIGNATURE, MAX_SIGNATURES, split_signatures

OLD = b"\x88\x05\x04\x00\x16\x08\x00"
"""An old-format signature packet with one octet of length."""


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (OLD, 1),
        (OLD * 3, 3),
        (b"\x89\x00\x05" + OLD[2:], 1),
        (b"\x8a\x00\x00\x00\x05" + OLD[2:], 1),
        (b"\xc2\x05" + OLD[2:], 1),
        (b"\xc2\xff\x00\x00\x00\x05" + OLD[2:], 1),
        (b"\xc2\xc0\x08" + b"\x04" + bytes(199), 1),
        (OLD * MAX_SIGNATURES, MAX_SIGNATURES),
    ],
)
def test_signature_packets_are_counted(data: bytes, count: int) -> None:
    packets = split_signatures(data)
    assert len(packets) == count
    assert b"".join(packets) == data


@pytest.mark.parametrize(
    ("what", "data", "says"),
    [
        ("nothing", b"", "is empty"),
        ("more than 64 KiB", OLD * (MAX_SIGNATURE // len(OLD) + 1), "more than the 65536 allowed"),
        ("armour", b"-----BEGIN PGP SIGNATURE-----\n", "without armour"),
        ("a clearsigned message", b"-----BEGIN PGP SIGNED MESSAGE-----\n", "without armour"),
        ("a key", b"\x98\x05\x04\x00\x16\x08\x00", "tag 6"),
        ("compressed data", b"\xa3\x01\x04", "indefinite"),
        ("a compressed packet with a length", b"\xc8\x02\x01\x04", "tag 8"),
        ("a one-pass signature, as in a signed message", b"\x90\x0d\x03" + bytes(12), "tag 4"),
        ("a marker before the signature", b"\xca\x03PGP" + OLD, "tag 10"),
        ("something after the signature", OLD + b"\xcb\x01x", "tag 11"),
        ("text after the signature", OLD + b"\n", "no OpenPGP packet starts"),
        ("a partial length", b"\xc2\xe1\x04\x00", "partial length"),
        ("an indefinite length", b"\x8b\x04\x00", "indefinite length"),
        ("a version 3 signature", b"\x88\x05\x03\x00\x16\x08\x00", "version 3"),
        ("a version 6 signature", b"\x88\x05\x06\x00\x16\x08\x00", "version 6"),
        ("a cut signature", OLD[:-1], "truncated"),
        ("a header alone", b"\xc2", "truncated"),
        ("a cut length", b"\xc2\xff\x00", "truncated"),
        ("an empty signature", b"\xc2\x00", "truncated"),
        ("nine signatures", OLD * (MAX_SIGNATURES + 1), "more than the 8 allowed"),
    ],
)
def test_anything_else_is_refused_unread(what: str, data: bytes, says: str) -> None:
    with pytest.raises(SignatureError, match=says):
        split_signatures(data)


@settings(deadline=None)
@given(st.binary(max_size=400) | st.binary(max_size=40).map(lambda tail: OLD + b"\xc2" + tail))
def test_any_bytes_are_counted_or_refused(data: bytes) -> None:
    try:
        assert 1 <= len(split_signatures(data)) <= MAX_SIGNATURES
    except SignatureError as exc:
        assert str(exc)  # noqa: PT017 - whichever of the two comes is right
