"""Published clusters: what the policy demands of their endorsements, and the way from a file to machines by a name."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import Result

from catalog.errors import Misused, NotFound
from catalog.image.reference import Reference
from deployer.errors import Refused
from deployer.policy.model import Policy
from deployer.policy.revocations import BlockList, RevocationState
from deployer.site.clusters.published import resolve_published
from deployer.site.model.cluster import ClusterDocument
from partita import app
from signer.documents import canonical, validate
from signer.statements.revocation import RevokedObject
from signer.verification.endorsements import DEFAULT_ROLE, endorse
from signer.verification.revocations import revoke
from signer.verification.signers import KeySigner
from signer.verification.trust import Anchor
from tests.deployer.site.api.test_clusters import busy
from tests.support.catalog.service_process import Vo, now
from tests.support.commands import CliRunner
from tests.support.node.community import Community
from tests.support.node.service_process import policy
from tests.support.site.service_process import PaperNode, SiteProcess

TITLE = "star/batch@1.0"
DOCUMENT = canonical(
    validate(
        ClusterDocument,
        {"name": "batch", "roles": {"head": {"image": "star/hello@1.0", "ready": "running"}}},
        "cluster",
    )
)
DIGEST = "sha256:" + hashlib.sha256(DOCUMENT).hexdigest()


class Shelf:
    """A catalog that has one document, whatever its endorsements are worth."""

    def __init__(self, *pairs: tuple[bytes, bytes], data: bytes = DOCUMENT) -> None:
        self._pairs, self._data = pairs, data

    def cluster(self, reference: Reference) -> tuple[str, bytes]:
        """The document."""
        if (reference.vo, reference.name) != ("star", "batch"):
            raise NotFound(f"there is no cluster {reference}")
        return TITLE, self._data

    def cluster_endorsements(self, digest: str) -> Sequence[tuple[bytes, bytes]]:
        """What comes with it."""
        assert digest == "sha256:" + hashlib.sha256(self._data).hexdigest()
        return self._pairs


def vouched(vo: Vo, *, role: str = DEFAULT_ROLE, data: bytes = DOCUMENT) -> tuple[bytes, bytes]:
    """A VO's endorsement."""
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    return endorse(KeySigner(vo.keyring, vo.fingerprint), digest, TITLE, now(), kind="cluster", role=role)


def rules(*anchors: Anchor, threshold: int = 1, more: str = "") -> Policy:
    """A policy with these anchors."""
    return Policy.parse((policy(*anchors, threshold=threshold) + more).encode(), "policy")


def test_an_endorsed_document_is_taken(community: Community) -> None:
    """By its name, and by its name and version."""
    star = community.star
    for text in (TITLE, "star/batch"):
        title, document = resolve_published(Shelf(vouched(star)), text, rules(star.anchor()), RevocationState(), now())
        assert (title, document.name) == (TITLE, "batch")
        assert canonical(document) == DOCUMENT


REFUSED: list[tuple[str, Callable[[Vo, Vo], tuple[Shelf, Policy, RevocationState]], str]] = [
    ("nobody", lambda star, _: (Shelf(), rules(star.anchor()), RevocationState()), "0 of 1 endorsers of star vouch"),
    (
        "a stranger",
        lambda star, rogue: (Shelf(vouched(rogue)), rules(star.anchor()), RevocationState()),
        "is not trusted as an endorser here",
    ),
    (
        "one where two are wanted",
        lambda star, _: (Shelf(vouched(star), vouched(star)), rules(star.anchor(), threshold=2), RevocationState()),
        "1 of 2 endorsers",
    ),
    (
        "another role",
        lambda star, _: (Shelf(vouched(star, role="visitor")), rules(star.anchor()), RevocationState()),
        "in the role visitor",
    ),
    (
        "of another document",
        lambda star, _: (Shelf(vouched(star), data=b'{"name":"other"}'), rules(star.anchor()), RevocationState()),
        "about another cluster document",
    ),
    (
        "too old",
        lambda star, _: (
            Shelf(vouched(star)),
            rules(star.anchor(), more='[endorsements.vo.star]\nmax_age = "1d"\n'),
            RevocationState(),
        ),
        "2 days old",
    ),
    (
        "for an image of that digest and name",
        lambda star, _: (
            Shelf(endorse(KeySigner(star.keyring, star.fingerprint), DIGEST, TITLE, now())),
            rules(star.anchor()),
            RevocationState(),
        ),
        "predicateType",
    ),
    (
        "by a key that was revoked",
        lambda star, _: (
            Shelf(vouched(star)),
            rules(star.anchor()),
            RevocationState(
                pairs=(
                    revoke(
                        KeySigner(star.keyring, star.fingerprint),
                        RevokedObject("key", f"openpgp:{star.fingerprint}"),
                        "star",
                        now(),
                        reason="compromised",
                    ),
                )
            ),
        ),
        "Its key was revoked",
    ),
    (
        "by a key that the site blocks",
        lambda star, _: (
            Shelf(vouched(star)),
            rules(star.anchor()),
            RevocationState(blocks=BlockList(keys=(f"openpgp:{star.fingerprint}",))),
        ),
        "is in the site's block list",
    ),
]


@pytest.mark.parametrize(("make", "says"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_a_document_that_too_few_vouch_for_is_refused(
    community: Community, make: Callable[[Vo, Vo], tuple[Shelf, Policy, RevocationState]], says: str
) -> None:
    """With why, endorsement by endorsement."""
    shelf, found, withdrawn = make(community.star, community.rogue)
    with pytest.raises(Refused, match=says):
        resolve_published(shelf, TITLE, found, withdrawn, now() + timedelta(days=2))


def test_what_is_no_cluster_is_refused(community: Community) -> None:
    """However many vouch for it; and so are references that are no names."""
    star = community.star
    other = b'{"name":"batch","roles":{}}'
    with pytest.raises(Misused, match="roles"):
        resolve_published(
            Shelf(vouched(star, data=other), data=other), TITLE, rules(star.anchor()), RevocationState(), now()
        )
    for text in ("batch", "star/batch@"):
        with pytest.raises(Misused, match="is not a name of a published cluster"):
            resolve_published(Shelf(), text, rules(star.anchor()), RevocationState(), now())
    with pytest.raises(NotFound):
        resolve_published(Shelf(), "star/other", rules(star.anchor()), RevocationState(), now())


@pytest.fixture
def site(community: Community) -> Iterator[SiteProcess]:
    """A site that trusts star."""
    with SiteProcess(community.service.url, policy(community.star.anchor(), machines=1000)) as found:
        yield found


def test_from_a_file_to_machines_by_a_name(site: SiteProcess, community: Community, tmp_path: Path) -> None:
    """Published, listed, endorsed again and deployed by commands; twice beside each other under two names."""
    node = PaperNode(site, "paper", cores=10)
    file = tmp_path / "batch.json"
    file.write_bytes(DOCUMENT)

    def run(*arguments: str) -> Result:
        sets = {
            "site.directory": site.directory,
            "signer.home": community.star.keyring.home,
            "catalog.url": community.service.url,
        }
        options = [text for name, value in sets.items() for text in ("--set", f"{name}={value}")]
        result = CliRunner().invoke(app, [*options, "cluster", *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    key = ("--key", community.star.fingerprint)
    with pytest.raises(Misused, match="has no version"):
        run("publish", str(file), "star/batch", *key)
    assert json.loads(run("publish", str(file), TITLE, *key, "--json").stdout)["digest"] == DIGEST
    assert "is endorsed" in run("endorse", str(file), TITLE, *key, "--comment", "read again").stdout
    assert TITLE in run("published", "--vo", "star").stdout
    with busy(node):
        one = json.loads(run("deploy", TITLE, "--json").stdout)
        assert (one["phase"], one["name"], one["reference"]) == ("ready", "batch", TITLE)
        two = json.loads(run("deploy", "star/batch", "--name", "second", "--json").stdout)
        assert (two["phase"], two["members"][0]["hostname"]) == ("ready", "second-head-1")
        with pytest.raises(NotFound):
            run("deploy", "star/nothing@1.0")
        for name in ("batch", "second"):
            run("destroy", name)
