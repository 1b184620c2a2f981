"""Messages between machines and the context broker: documents, and the same as lines for guests that have only a shell."""

import hashlib
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from deployer.machine.spec import Uuid
from signer.documents import Document, canonical
from signer.statements.endorsement import Instant

_NONCE = r"^[A-Za-z0-9_-]{32,128}$"


class ContextRequest(Document):
    """The first request of a machine.

    Attributes:
        machine: its UUID.
        secret: from its seed.
        nonce: made by the guest from its own randomness; with it the same request may be sent again when the answer
            was lost. Without one the request cannot be repeated.
    """

    machine: Uuid
    secret: Annotated[str, Field(min_length=1, max_length=200)]
    nonce: Annotated[str, Field(pattern=_NONCE)] | None = None


class GuestIdentity(Document):
    """A machine's identity at its site.

    Attributes:
        addresses: that the site gave or sees; not those that the guest published.
        requires: the roles that its role requires, and how many machines of each must be there, itself not counted.
        ends: when it expires.
    """

    machine: Uuid
    deployment: Uuid
    hostname: str
    role: str = ""
    cluster: str = ""
    addresses: tuple[str, ...] = ()
    requires: dict[str, int] = Field(default_factory=dict)
    ends: Instant


class ContextSession(Document):
    """A session, its end unless it is renewed, and the machine's identity."""

    session: str
    expires: Instant
    identity: GuestIdentity


class PeerReadiness(StrEnum):
    """The readiness of a machine, as its peers see it."""

    ABSENT = "absent"
    PRESENT = "present"
    READY = "ready"
    FAILED = "failed"


class ClusterPeer(Document):
    """A machine that another's role requires.

    Attributes:
        addresses: that the site gave or sees, else those that the guest published.
        host_keys: SSH host keys, one line each.
        published: other published values: key to size in bytes.
    """

    machine: Uuid
    hostname: str
    role: str
    standing: PeerReadiness
    addresses: tuple[str, ...] = ()
    host_keys: tuple[str, ...] = ()
    published: dict[str, int] = Field(default_factory=dict)


class ClusterPeers(Document):
    """The peers that are far enough, and whether there are as many as are required.

    Attributes:
        tag: identifies this list of peers: a guest that sends it waits for a different one. None unless it is needed.
    """

    complete: bool
    tag: str | None = None
    missing: dict[str, int] = Field(default_factory=dict)
    peers: tuple[ClusterPeer, ...] = ()


def with_tag(peers: ClusterPeers) -> ClusterPeers:
    """The peers with their tag."""
    return peers.model_copy(update={"tag": hashlib.sha256(canonical(peers)).hexdigest()[:32]})


def hosts_lines(peers: Iterable[ClusterPeer]) -> list[str]:
    """Lines for /etc/hosts."""
    return [f"{address} {peer.hostname}" for peer in peers for address in peer.addresses]


def known_hosts_lines(hostname: str, addresses: Sequence[str], host_keys: Sequence[str]) -> list[str]:
    """Lines for known_hosts (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT")."""
    names = ",".join([hostname, *addresses])
    return [f"{names} {key}" for key in host_keys]


def session_text(session: ContextSession) -> str:
    """A session as lines of `name=value`, for guests that have a shell and no JSON parser."""
    return f"session={session.session}\nexpires={session.expires:%Y-%m-%dT%H:%M:%SZ}\n" + identity_text(
        session.identity
    )


def identity_text(identity: GuestIdentity) -> str:
    """An identity as lines of `name=value`; lists are joined by commas."""
    requires = ",".join(f"{role}:{count}" for role, count in sorted(identity.requires.items()))
    values = {
        "machine": identity.machine,
        "deployment": identity.deployment,
        "hostname": identity.hostname,
        "role": identity.role,
        "cluster": identity.cluster,
        "addresses": ",".join(identity.addresses),
        "requires": requires,
        "ends": f"{identity.ends:%Y-%m-%dT%H:%M:%SZ}",
    }
    return "".join(f"{name}={value}\n" for name, value in values.items())


def peers_text(peers: ClusterPeers) -> str:
    """Peers as lines: whether they are complete, `tag TAG`, `missing ROLE COUNT`, `peer HOSTNAME ROLE STANDING ADDRESSES`, `data HOSTNAME KEY SIZE`.

    Addresses are joined by commas, and `-` where there are none.
    """
    lines = [f"complete {'yes' if peers.complete else 'no'}"]
    lines += [f"tag {peers.tag}"] if peers.tag else []
    lines += [f"missing {role} {count}" for role, count in sorted(peers.missing.items())]
    for peer in peers.peers:
        lines.append(f"peer {peer.hostname} {peer.role} {peer.standing} {','.join(peer.addresses) or '-'}")
        lines += [f"data {peer.hostname} {key} {size}" for key, size in sorted(peer.published.items())]
    return "".join(f"{line}\n" for line in lines)
