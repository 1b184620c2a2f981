"""Errors cross from a node to its client as what they are."""

import json
from collections import Counter

import pytest

import deployer.ec2.errors  # noqa: F401 - its errors cross too, and are known once they are loaded
from catalog.errors import CatalogError, NotFound
from deployer.errors import DeployerError, Refused
from deployer.web import problems
from deployer.web.problems import error_classes, from_problem, read_problem, to_problem
from signer.errors import DocumentError
from stager.errors import EntryChanged, StagerError


@pytest.mark.parametrize("code", sorted(error_classes()))
def test_every_error_comes_back_as_itself(code: str) -> None:
    kind = error_classes()[code]
    error = kind("policy", "$.x", "is wrong") if kind is DocumentError else kind("one sentence")
    problem = json.loads(json.dumps(to_problem(error)))
    assert 400 <= problem["status"] < 600
    back = from_problem(problem)
    assert type(back) is kind
    assert str(back) == str(error)
    assert getattr(back, "exit_code", None) == kind.exit_code  # type: ignore[attr-defined]


def test_no_two_errors_share_a_code() -> None:
    codes = [code for code, _ in problems._SIGNER.values()]
    for base in (CatalogError, StagerError, DeployerError):
        codes += [kind.code for kind in problems._tree(base)]  # type: ignore[attr-defined]
    assert [code for code, count in Counter(codes).items() if count > 1] == []


def test_what_errors_carry_crosses_too() -> None:
    refused = from_problem(to_problem(Refused("no", {"accepted": False, "rules": []})))
    assert isinstance(refused, Refused)
    assert refused.decision == {"accepted": False, "rules": []}
    document = from_problem(to_problem(DocumentError("order", "$.image", "is missing")))
    assert isinstance(document, DocumentError)
    assert (document.what, document.path, document.reason) == ("order", "$.image", "is missing")


def test_what_is_not_ours_says_nothing_of_its_inside() -> None:
    problem = to_problem(RuntimeError("password is hunter2"))
    assert problem["status"] == 500
    assert "hunter2" not in json.dumps(problem)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"detail": 1}', b'{"detail": "x", "type": "about:blank"}', b"\xff", b"<html>"]
)
def test_answers_that_are_no_problem_of_ours(data: bytes) -> None:
    assert read_problem(data) is None


def test_examples_of_the_three_packages() -> None:
    for error in (NotFound("a"), EntryChanged("b"), Refused("c")):
        assert type(read_problem(json.dumps(to_problem(error)).encode())) is type(error)
