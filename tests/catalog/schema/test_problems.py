"""Problems: errors as they cross the wire, and what is read of bytes that claim to be one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import CatalogError, Malformed
from catalog.schema.problems import ERRORS_BY_CODE, from_problem, status_of, to_problem
from signer.documents import canonical
from signer.errors import DocumentError, KeyUnusable


@pytest.mark.parametrize("code", sorted(ERRORS_BY_CODE))
def test_every_error_crosses_the_wire(code: str) -> None:
    """The client raises the very class, with the same sentence and the same attributes."""
    kind = ERRORS_BY_CODE[code]
    error = DocumentError("manifest", "$.disks[0]", "is wrong") if kind is DocumentError else kind("a sentence")
    back = from_problem(canonical(to_problem(error)))
    assert type(back) is kind
    assert str(back) == str(error)
    assert vars(back) == vars(error)
    assert status_of(kind) == to_problem(error)["status"]


def test_errors_that_are_not_ours_keep_their_inside() -> None:
    """A programmer's mistake does not tell strangers about files and queries; a subclass travels as its ancestor."""
    assert "secret" not in str(to_problem(RuntimeError("secret /etc/shadow")))
    assert "secret" not in str(to_problem(KeyUnusable("secret /etc/shadow")))

    class Special(Malformed):
        """Known here only."""

    assert type(from_problem(canonical(to_problem(Special("x"))))) is Malformed


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>", b"[]", b"{}", b'{"detail":1}', b'{"detail":"x","type":"about:blank"}',
     b'{"detail":"x","type":"urn:partita:problem:malformed-document"}',
     b'{"detail":"x","type":"urn:partita:problem:conflict","__class__":1' ],
)  # fmt: skip
def test_what_is_no_problem_of_ours_is_none(data: bytes) -> None:
    """Never an exception of the reader's own."""
    assert from_problem(data) is None


def test_attributes_that_an_error_does_not_have_are_ignored() -> None:
    """A hostile catalog cannot set anything on our exceptions."""
    error = from_problem(b'{"type":"urn:partita:problem:conflict","detail":"d","exit_code":0,"args":[1]}')
    assert error is not None
    assert (vars(error), str(error)) == ({}, "d")
    assert isinstance(error, CatalogError)


@given(st.binary(max_size=200))
def test_any_bytes_as_problem(data: bytes) -> None:
    """No bytes make it fail."""
    assert from_problem(data) is None or isinstance(from_problem(data), Exception)
