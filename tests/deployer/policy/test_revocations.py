"""What is withdrawn stops: at decisions, on machines that run, with and without a network, as the policy says."""

from collections.abc import Callable
from pathlib import Path

import pytest

from deployer.errors import PolicyUnusable
from deployer.policy.evaluation import EvaluationInput, evaluate, policy_case
from deployer.policy.revocations import BlockList, RevocationStore
from signer.errors import DocumentError
from tests.support.node.policy_site import IMAGE, Site, failing
from tests.support.node.withdrawn_signatures import anns_key, by_officer, case, rules

OFFICER_AND_ADMIN = """
[endorsements]
threshold = 2
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Ann and Bob may endorse, Kim is the security officer."""
    return Site(tmp_path_factory.mktemp("site"))


ANN, BOB = "x509:/DC=org/CN=Ann", "x509:/DC=org/CN=Bob O'Neill"
TABLE: list[tuple[str, Callable[[Site], EvaluationInput], str, set[str]]] = [
    ("nothing", lambda s: case(s), "", set()),
    ("the image, by an officer", lambda s: case(s, by_officer(s)), "", {"not-revoked", "endorsements"}),
    ("one of two keys, where one is enough", lambda s: case(s, anns_key(s)), "", set()),
    (
        "one of two keys, where two must",
        lambda s: case(s, anns_key(s)),
        "[endorsements]\nthreshold = 2",
        {"endorsements"},
    ),
    ("the image's ID is blocked", lambda s: case(s, images=(IMAGE.image_id,)), "", {"not-blocked"}),
    ("its name is blocked", lambda s: case(s, images=("star/*@1.*",)), "", {"not-blocked"}),
    ("another name is blocked", lambda s: case(s, images=("star/other",)), "", set()),
    ("its VO is blocked", lambda s: case(s, vos=("st*",)), "", {"not-blocked"}),
    ("one key is blocked", lambda s: case(s, keys=(ANN,)), "", set()),
    ("both keys are blocked", lambda s: case(s, keys=(ANN, BOB)), "", {"endorsements"}),
]


def test_decisions(site: Site) -> None:
    wrong = []
    for what, make, said, expected in TABLE:
        decision = evaluate(rules(site, said), make(site), site.now).decision
        if failing(decision) != expected:
            wrong.append((what, decision.text()))
    assert not wrong


def test_a_blocked_endorsement_does_not_count(site: Site) -> None:
    mine = case(site)
    verified = policy_case(rules(site).policy, mine, site.now).checks
    checks = BlockList(endorsements=(f"sha256:{verified[0].digest}",)).void(verified)
    assert [check.counts for check in checks] == [False, True]
    assert checks[0].reason == f"sha256:{verified[0].digest} is in the site's block list."


def test_what_was_seen_is_never_forgotten(site: Site, tmp_path: Path) -> None:
    store, pair, other = RevocationStore(tmp_path), by_officer(site), anns_key(site)
    assert [store.add([pair, pair]), store.add([pair]), store.add([other])] == [1, 0, 1]
    assert store.add([]) == 0
    assert RevocationStore(tmp_path).pairs() == (pair, other)
    (tmp_path / "revocations.json").write_bytes(b"{")
    with pytest.raises(DocumentError):
        RevocationStore(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("images = ['nonsense']", "image ID"),
        ("keys = ['Ann']", "is not a key"),
        ("keys = ['openpgp:abc']", "is not a key"),
        ("endorsements = ['x']", "endorsements"),
        ("hosts = ['x']", "not known here"),
        ("images = [", "is not TOML"),
    ],
)
def test_a_block_list_that_is_not_understood_blocks_everything(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "blocked.toml"
    assert BlockList.load(file) == BlockList()
    file.write_text(text)
    with pytest.raises(PolicyUnusable, match=says):
        BlockList.load(file)
