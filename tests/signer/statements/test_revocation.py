"""The revocation statement: one canonical form, and digests of keys by their names."""

import json
from typing import Any

import pytest

from signer.documents import canonical
from signer.errors import DocumentError
from signer.statements.revocation import RevokedObject, parse_revocation, revocation_statement
from tests.support.grid_ca import utc_now

IMAGE, OTHER, TITLE = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32, "star/worker@1.0"


ADMIN = "image-administrator"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "image", "target": "worker"}, "is not a valid image name"),
        ({"kind": "key", "target": "Ann"}, "is not a valid key name"),
        ({"kind": "image", "target": TITLE, "digest": "sha256:xyz"}, "sha256"),
        ({"kind": "vo", "target": "star"}, "kind"),
        ({"reason": "angry"}, "reason"),
        ({"vo": "Star"}, "vo"),
        ({"serial": "1f"}, "only a certificate has a serial number"),
        ({"comment": "a\nb"}, "control or invisible"),
    ],
)
def test_what_is_no_revocation(changes: dict[str, Any], says: str) -> None:
    values: dict[str, Any] = {"kind": "image", "target": TITLE, "digest": IMAGE, "vo": "star", "reason": "retired"}
    values |= {"revoker": "openpgp:" + "A" * 40, "role": ADMIN, "issued": utc_now()} | changes
    of_object = {name: values.pop(name) for name in ("kind", "digest", "serial") if name in values}
    revoked = RevokedObject(name=values.pop("target"), **of_object)
    with pytest.raises(DocumentError, match=says):
        revocation_statement(revoked, **values)


def test_a_keys_digest_is_that_of_its_name() -> None:
    good = revocation_statement(
        RevokedObject("key", "openpgp:" + "A" * 40), "openpgp:" + "A" * 40, "star", ADMIN, "retired", utc_now()
    )
    assert parse_revocation(good).target == "openpgp:" + "A" * 40
    other = json.loads(good)
    other["subject"][0]["digest"]["sha256"] = "ab" * 32
    with pytest.raises(DocumentError, match="SHA-256 of its name"):
        parse_revocation(canonical(other))
