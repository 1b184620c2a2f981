"""EUGridPMA signing policies: which subjects a CA may name, and what is not understood."""

import pytest

from signer.errors import SignatureError
from signer.x509.signing_policy import parse_signing_policy

POLICY = """
# comment
access_id_CA   X509   '/C=CH/O=CERN/CN=CERN Grid'
pos_rights     globus CA:sign
cond_subjects  globus '"/C=CH/O=CERN/*" "/DC=ch/CN=Robot?"'   # and no others
access_id_CA X509 "/O=Two"
pos_rights globus CA:sign
cond_subjects globus "/O=Two/*"
"""


@pytest.mark.parametrize(
    ("subject", "permitted"),
    [
        ("/C=CH/O=CERN/CN=Ann", True),
        ("/C=CH/O=CERN/OU=a/CN=b", True),
        ("/DC=ch/CN=Robot1", True),
        ("/DC=ch/CN=Robot", False),
        ("/DC=ch/CN=Robot12", False),
        ("/C=CH/O=CERN", False),
        ("/c=ch/o=cern/CN=Ann", False),
        ("/X=1/C=CH/O=CERN/CN=Ann", False),
        ("/O=Two/CN=Ann", False),
    ],
)
def test_signing_policies(subject: str, permitted: bool) -> None:
    first, second = parse_signing_policy(POLICY, "x.signing_policy")
    assert first.authority == "/C=CH/O=CERN/CN=CERN Grid"
    assert first.permits(subject) is permitted
    assert second.permits("/O=Two/CN=Ann")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("neg_rights globus CA:sign", "before the first access_id_CA"),
        ("access_id_CA X509 /O=x\nneg_rights globus CA:sign", "line 2: neg_rights globus is not understood"),
        ("access_id_CA X509 /O=x\npos_rights globus CA:all", "pos_rights globus is not understood"),
        ("access_id_CA X509 /O=x\ncond_time globus night", "cond_time globus is not understood"),
        ("access_id_CA X509 '/O=x", "line 1: not understood"),
    ],
)
def test_signing_policies_that_are_not_understood(text: str, reason: str) -> None:
    with pytest.raises(SignatureError, match=reason):
        parse_signing_policy(text, "x.signing_policy")


def test_a_policy_without_rights_or_subjects_permits_nothing() -> None:
    (without,) = parse_signing_policy("access_id_CA X509 /O=x\ncond_subjects globus *", "x")
    (empty,) = parse_signing_policy("access_id_CA X509 /O=x\npos_rights globus CA:sign", "x")
    assert not without.permits("/O=x/CN=a")
    assert not empty.permits("/O=x/CN=a")
