"""Reads DER (ITU-T X.690, section 10), as far as CMS files and certificates need it. Pure.

Only the definite, shortest form of a length is read; the other forms of BER are refused, so that two readers of the same
bytes cannot interpret them differently.
"""

from dataclasses import dataclass

from signer.errors import SignatureError

INTEGER, OCTET_STRING, OID, SEQUENCE, SET = 0x02, 0x04, 0x06, 0x30, 0x31
"""Tags (section 8.1.2), with the bit for constructed encodings where it belongs."""

NOT_DER = "the signature is not a CMS file in DER; make it with `openssl cms -sign -outform DER`"

MAX_NESTED = 64
"""Members of one sequence or set; nothing that is read here has more."""


@dataclass(frozen=True)
class Element:
    """One element: its tag, its content, and all of its bytes."""

    tag: int
    content: bytes
    whole: bytes

    def children(self) -> list["Element"]:
        """Read the members of a constructed element; SignatureError if they are malformed or too many."""
        return _elements(self.content, MAX_NESTED, f"the signature has more than {MAX_NESTED} elements in one place")

    def oid(self) -> str:
        """Return an object identifier in dotted form."""
        if self.tag != OID or not self.content or self.content[-1] & 0x80:
            raise SignatureError("the signature has another element where an object identifier is expected")
        numbers, value = [], 0
        for byte in self.content:
            value = value << 7 | byte & 0x7F
            if not byte & 0x80:
                numbers.append(value)
                value = 0
        first = min(numbers[0] // 40, 2)
        return ".".join(map(str, [first, numbers[0] - 40 * first, *numbers[1:]]))

    def integer(self) -> int:
        """Return the value of an integer."""
        if self.tag != INTEGER or not self.content:
            raise SignatureError("the signature has another element where a number is expected")
        return int.from_bytes(self.content, "big", signed=True)


def read_der(data: bytes) -> Element:
    """Read bytes that are exactly one element in DER; SignatureError otherwise."""
    elements = _elements(data, 1, "the signature has trailing bytes")
    if len(elements) != 1:
        raise SignatureError(NOT_DER)
    return elements[0]


def _elements(data: bytes, most: int, excess: str) -> list[Element]:
    """The elements one after the other; `excess` is the error if there are more than `most`."""
    found: list[Element] = []
    at = 0
    while at < len(data):
        if len(found) == most:
            raise SignatureError(excess)
        found.append(_element(data, at))
        at += len(found[-1].whole)
    return found


def _element(data: bytes, start: int) -> Element:
    malformed = SignatureError(NOT_DER)
    if start + 2 > len(data) or data[start] & 0x1F == 0x1F:
        raise malformed
    length, at = data[start + 1], start + 2
    if length & 0x80:
        octets = length & 0x7F
        digits = data[at : at + octets]
        at += octets
        length = int.from_bytes(digits, "big")
        if not 1 <= octets <= 4 or len(digits) != octets or digits[0] == 0 or length < 0x80:
            raise malformed
    if at + length > len(data):
        raise malformed
    return Element(data[start], data[at : at + length], data[start : at + length])
