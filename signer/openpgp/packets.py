"""Splits a detached signature file into its packets: OpenPGP signatures (RFC 4880, section 4), nothing else.

GnuPG accepts much more where a signature is expected: armour, compressed data, whole signed messages. Each of these has
been used to bypass a verifier, so the file is parsed here first, and any other packet is refused unread. Pure.
"""

from signer.errors import SignatureError

MAX_SIGNATURE = 64 << 10
"""Bytes. A detached signature has some hundred; it never contains key material (certificate flooding)."""

MAX_SIGNATURES = 8
"""Signature packets in one file. People sign with one key, or with an old and a new one; each takes a run of gpg."""

_SIGNATURE = 2
_VERSION = 4


def split_signatures(data: bytes) -> list[bytes]:
    """Split the bytes into version 4 signature packets, each with its header.

    Raises:
        SignatureError: the file is empty, too large or armoured, or has a packet of another kind, an indefinite or wrong
            length, or too many packets.
    """
    if not data:
        raise SignatureError("the signature is empty")
    if len(data) > MAX_SIGNATURE:
        raise SignatureError(f"the signature has {len(data)} bytes, more than the {MAX_SIGNATURE} allowed")
    packets = []
    at = 0
    while at < len(data):
        start, end = _body(data, at)
        if data[start] != _VERSION:
            raise SignatureError(f"the signature at byte {at} has version {data[start]}; only version 4 is accepted")
        packets.append(data[at:end])
        at = end
    if len(packets) > MAX_SIGNATURES:
        raise SignatureError(f"the file holds {len(packets)} signatures, more than the {MAX_SIGNATURES} allowed")
    return packets


def _body(data: bytes, at: int) -> tuple[int, int]:
    """Find start and end of the body of the signature packet whose header starts at `at` (section 4.2)."""
    head = data[at]
    if not head & 0x80:
        raise SignatureError(f"no OpenPGP packet starts at byte {at}; sign with `gpg --detach-sign`, without armour")
    if head & 0x40:
        tag, length, start = head & 0x3F, *_new_length(data, at + 1)
    else:
        octets = 1 << (head & 3)
        if octets == 8:
            raise SignatureError(f"the packet at byte {at} has an indefinite length, which no signature has")
        start = at + 1 + octets
        tag, length = head >> 2 & 0x0F, int.from_bytes(data[at + 1 : start])
    if tag != _SIGNATURE:
        raise SignatureError(f"the packet at byte {at} is not a signature (tag {tag}); only detached signatures count")
    if not length or start + length > len(data):
        raise SignatureError(f"the signature at byte {at} is truncated")
    return start, start + length


def _new_length(data: bytes, at: int) -> tuple[int, int]:
    """Read the length of a new-format packet, and where its body starts (section 4.2.2)."""
    first = data[at] if at < len(data) else 0
    if first < 192:
        return first, at + 1
    if first < 224:
        return (first - 192 << 8) + int.from_bytes(data[at + 1 : at + 2]) + 192, at + 2
    if first < 255:
        raise SignatureError(f"the packet at byte {at - 1} has a partial length, which no signature has")
    return int.from_bytes(data[at + 1 : at + 5]), at + 5
