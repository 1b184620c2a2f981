"""Problems: errors as they cross the wire, and what is read of bytes that claim to be one."""

import importlib
import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.errors import CatalogError, Conflict, Malformed, Misused, NotFound
from catalog.schema.problems import _tree, error_classes, from_problem, read_problem, to_problem
from deployer.errors import DeployerError, MigrationFailed, Refused, TooManyRequests
from signer.documents import canonical
from signer.errors import DocumentError, PartitaError, SignerError
from stager.errors import EntryChanged, StagerError

importlib.import_module("deployer.ec2.errors")  # its errors cross too, and are known once they are loaded


@pytest.mark.parametrize("code", sorted(error_classes()))
def test_every_error_crosses_the_wire(code: str) -> None:
    """The client raises the very class, with the same sentence and the same attributes."""
    kind = error_classes()[code]
    error = kind("manifest", "$.disks[0]", "is wrong") if kind is DocumentError else kind("a sentence")
    problem = json.loads(canonical(to_problem(error)))
    assert 400 <= problem["status"] == kind.status < 600
    back = from_problem(problem)
    assert type(back) is kind
    assert str(back) == str(error)
    for name in kind.carried:
        assert getattr(back, name) == getattr(error, name)


def test_every_package_has_errors_here_and_no_two_share_a_code() -> None:
    for base in (SignerError, CatalogError, StagerError, DeployerError):
        assert len(set(_tree(base)) & set(error_classes().values())) > 5
    codes = [kind.code for kind in _tree(PartitaError) if "code" in vars(kind)]
    assert [code for code, count in Counter(codes).items() if count > 1] == []
    names = [kind.__name__ for kind in _tree(PartitaError)]
    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_a_class_without_a_code_travels_as_its_base() -> None:
    class Special(Malformed):
        """Known here only."""

    assert type(from_problem(to_problem(Special("x")))) is Malformed


def test_what_errors_carry_crosses_too() -> None:
    refused = from_problem(to_problem(Refused("no", {"accepted": False, "rules": []})))
    assert isinstance(refused, Refused)
    assert refused.decision == {"accepted": False, "rules": []}
    document = from_problem(to_problem(DocumentError("order", "$.image", "is missing")))
    assert isinstance(document, DocumentError)
    assert (document.what, document.path, document.reason) == ("order", "$.image", "is missing")
    busy = from_problem(to_problem(TooManyRequests("later", 7)))
    assert isinstance(busy, TooManyRequests)
    assert (busy.retry_after, busy.headers) == (7, {"Retry-After": "7"})
    failed = from_problem(to_problem(MigrationFailed("later", again=True)))
    assert isinstance(failed, MigrationFailed)
    assert failed.again


def test_what_an_older_service_does_not_send_is_as_by_default() -> None:
    """A refusal without a decision, a migration that does not say whether it may be tried again."""
    for error in (Refused("no", {}), TooManyRequests("later", 7), MigrationFailed("no", again=True)):
        problem = to_problem(error)
        for name in error.carried:
            del problem[name]
        back = from_problem(problem)
        assert type(back) is type(error)
        for name in error.carried:
            assert getattr(back, name) == getattr(type(error)("no"), name)


@pytest.mark.parametrize(("code", "kind"), [("deployment-misused", Misused), ("site-conflict", Conflict)])
def test_codes_of_earlier_releases_are_understood(code: str, kind: type[PartitaError]) -> None:
    assert type(from_problem({"type": f"urn:partita:problem:{code}", "detail": "x"})) is kind


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>", b"[]", b"{}", b"\xff", b'{"detail":1}', b'{"detail":"x","type":"about:blank"}',
     b'{"detail":"x","type":"urn:partita:problem:malformed-document"}',
     b'{"detail":"x","type":"urn:partita:problem:malformed-document","what":1,"path":2,"reason":3}',
     b'{"detail":"x","type":"urn:partita:problem:conflict","__class__":1' ],
)  # fmt: skip
def test_what_stands_for_no_error_is_none(data: bytes) -> None:
    """Never an exception of the reader's own."""
    assert read_problem(data) is None


def test_attributes_that_an_error_does_not_have_are_ignored() -> None:
    """A hostile catalog cannot set anything on our exceptions, and raises only those of catalogs."""
    error = read_problem(b'{"type":"urn:partita:problem:conflict","detail":"d","exit_code":0,"args":[1]}')
    assert error is not None
    assert (vars(error), str(error)) == ({}, "d")
    assert read_problem(canonical(to_problem(EntryChanged("x"))), CatalogError, DocumentError) is None
    assert type(read_problem(canonical(to_problem(NotFound("x"))), CatalogError, DocumentError)) is NotFound


@given(st.binary(max_size=200))
def test_any_bytes_as_problem(data: bytes) -> None:
    """No bytes make it fail."""
    found = read_problem(data)
    assert found is None or isinstance(found, PartitaError)
