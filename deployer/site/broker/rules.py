"""Decisions of the context broker, and checks of what machines publish. Pure: values in, values or errors out.

A machine has a secret that is valid once. In exchange it gets a session, learns its identity, publishes what others need
of it, learns of the peers that its role requires, and reports whether it is ready. Everything that a guest publishes is
another guest's input: what can end up in a line of a peer's /etc/hosts or known_hosts is checked here, and refused,
not cleaned.
"""

import base64
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from catalog.errors import Misused
from deployer.errors import Forbidden
from deployer.guest.nocloud_seed import check_public_key
from deployer.machine.state import MachineState
from deployer.site.broker.schema import ClusterPeer, ClusterPeers, ContextRequest, PeerReadiness
from deployer.site.model.cluster import Cluster
from deployer.site.model.contact import BrokerContact
from deployer.site.model.records import SiteMachine

SESSION_LIFE = timedelta(hours=1)
"""Validity of a session without renewal: the steps of a contextualization take minutes."""

RETRY_LIFE = timedelta(minutes=2)
"""How long a machine whose first answer was lost may repeat the request, with the nonce that it made for this."""

MAX_DATA = 64 << 10
"""Bytes of one published value, such as keys or a configuration file. Data belongs on a partition."""

MAX_PUBLISHED = 16
"""Values of one machine."""

MAX_HOST_KEYS = 8
"""One of each type that OpenSSH knows, and some spare."""

MAX_ADDRESSES = 16
"""Addresses of one machine."""

MAX_FAILURE_REASON = 300
"""Characters of the reason of a machine's failure: a script's name and its last line."""

ADDRESS_KEY: Final = "address"
"""The key under which a machine publishes its own addresses, one a line."""

HOST_KEYS_KEY: Final = "ssh-host-keys"
"""The key under which a machine publishes its SSH host keys, one a line, as in ssh_host_ed25519_key.pub."""

READY: Final = "ready"
FAILED: Final = "failed: "
"""Prefix of `SiteMachine.ready` when the guest reported a failure."""

_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class RoleRequirement:
    """What a machine needs of a role: a number of members, and the readiness that they must have.

    Attributes:
        silent: whether that role's members count as ready as soon as they run, since they never report it.
    """

    count: int
    least: PeerReadiness = PeerReadiness.READY
    silent: bool = False


def requirements_of(cluster: Cluster, role: str) -> dict[str, RoleRequirement]:
    """What the members of a role need of others, by role.

    Of roles that are only watched, zero members are needed. Members of one's own role need only be present: if each
    waited for the others to be ready, none ever would be.
    """
    document = cluster.document
    if role not in document.roles:
        return {}
    early = document.roles[role].starts == "booting"
    found = {}
    for name in document.providers(role):
        own = name == role
        least = PeerReadiness.PRESENT if own or early else PeerReadiness.READY
        count = max(0, cluster.need(name) - own)
        found[name] = RoleRequirement(count, least, document.roles[name].ready == "running")
    for name in document.watched(role):
        found[name] = RoleRequirement(0, PeerReadiness.READY, document.roles[name].ready == "running")
    return found


@dataclass(frozen=True, slots=True)
class BrokerMember:
    """A machine, its contact with the broker, what it published (key to size), and the addresses that it published."""

    machine: SiteMachine
    contact: BrokerContact | None
    published: Mapping[str, int]
    guest_addresses: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether what it published certainly comes from the machine itself."""
        return self.contact is not None and self.contact.sound

    @property
    def standing(self) -> PeerReadiness:
        """Its readiness. A machine whose secret was used by two parties counts as absent."""
        if not self.sound:
            return PeerReadiness.ABSENT
        if self.machine.ready == READY:
            return PeerReadiness.READY
        if self.machine.ready is not None:
            return PeerReadiness.FAILED
        return PeerReadiness.PRESENT if self.addresses else PeerReadiness.ABSENT

    @property
    def addresses(self) -> tuple[str, ...]:
        """Those that the site knows, else those that it published."""
        return assigned_addresses(self.machine) or (self.guest_addresses if self.sound else ())

    def enough(self, need: RoleRequirement) -> bool:
        """Whether it is as far as is needed."""
        if need.silent and not self.sound:
            return self.machine.state is MachineState.RUNNING and bool(self.addresses)
        return self.standing is PeerReadiness.READY or self.standing is need.least

    def as_peer(self) -> ClusterPeer:
        """The view of it that its peers get."""
        return ClusterPeer(
            machine=self.machine.uuid,
            hostname=self.machine.hostname,
            role=self.machine.role,
            standing=self.standing,
            addresses=self.addresses,
            host_keys=self.machine.host_keys if self.sound else (),
            published=dict(self.published) if self.sound else {},
        )


def secret_digest(text: str) -> str:
    """SHA-256, hex, of a secret's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def derive_secret(key: bytes, machine: str, generation: int) -> str:
    """The secret of a machine's n-th invitation: derived, so that a node can get it again after a crash without storing it."""
    return _derived(key, "secret", machine, str(generation))


def derive_session(key: bytes, contact: BrokerContact, nonce: str) -> str:
    """The session for a machine that presented its secret with a nonce (or a random one in its place)."""
    return f"{contact.machine}.{_derived(key, 'session', contact.machine, str(contact.generation), nonce)}"


def _derived(key: bytes, *parts: str) -> str:
    made = hmac.digest(key, "\0".join(parts).encode(), "sha256")
    return base64.urlsafe_b64encode(made).decode("ascii").rstrip("=")


class ContextDecision(StrEnum):
    """The answer to a machine's first request."""

    ADMIT = "admit"
    REPEAT = "repeat"
    ALARM = "alarm"
    REFUSE = "refuse"


def evaluate_context_request(contact: BrokerContact | None, knock: ContextRequest, now: datetime) -> ContextDecision:
    """Whether a secret admits a machine. Compares in constant time, also for an unknown machine.

    The right secret presented a second time is an alarm: one of the two senders was not the machine.
    """
    right = hmac.compare_digest(contact.secret if contact else "0" * 64, secret_digest(knock.secret))
    if contact is None or not right:
        return ContextDecision.REFUSE
    if contact.used is None:
        return ContextDecision.ADMIT
    same = knock.nonce is not None and hmac.compare_digest(contact.nonce, secret_digest(knock.nonce))
    if same and contact.alarmed is None and now - contact.used <= RETRY_LIFE:
        return ContextDecision.REPEAT
    return ContextDecision.ALARM


def is_session_valid(contact: BrokerContact | None, session: str, now: datetime) -> bool:
    """Whether a session belongs to a machine and is valid now."""
    right = hmac.compare_digest(contact.session if contact and contact.session else "0" * 64, secret_digest(session))
    return right and contact is not None and contact.sound and contact.expires is not None and now < contact.expires


def check_key(key: str) -> str:
    """Check the key of a published value (Misused): it may become a file's name in other guests."""
    if not _KEY.fullmatch(key) or ".." in key:
        raise Misused(
            f"{key[:80]!r} is not a valid key: use at most 64 letters, digits, and inner dots, hyphens and underscores, "
            "no two dots together"
        )
    return key


def check_published(key: str, data: bytes) -> None:
    """Refuse (Misused) a value that is too large, or not of the form that its key promises to other guests."""
    check_key(key)
    if len(data) > MAX_DATA:
        raise Misused(f"{key} has {len(data)} bytes; a published value has at most {MAX_DATA}")
    if key == ADDRESS_KEY:
        parse_addresses(data)
    elif key == HOST_KEYS_KEY:
        parse_host_keys(data)


def parse_addresses(data: bytes) -> tuple[str, ...]:
    """The addresses that a guest publishes, one a line; Misused if other machines could not reach it at one."""
    lines = _lines(ADDRESS_KEY, data, MAX_ADDRESSES)
    for line in lines:
        if (found := usable_address(line)) is None or found != line:
            raise Misused(f"{line[:60]!r} is not an address that other machines can reach; write it as 192.0.2.7")
    return tuple(dict.fromkeys(lines))


def parse_host_keys(data: bytes) -> tuple[str, ...]:
    """The host keys that a guest publishes: type and blob, one a line, comments dropped; Misused if one is not a key."""
    found = []
    for line in _lines(HOST_KEYS_KEY, data, MAX_HOST_KEYS):
        kind, blob = check_public_key(line).split(" ")[:2]
        found.append(f"{kind} {blob}")
    return tuple(dict.fromkeys(found))


def _lines(key: str, data: bytes, most: int) -> list[str]:
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as exc:
        raise Misused(f"{key} is not ASCII at byte {exc.start}") from exc
    # Not splitlines(), which knows more ends of lines than the readers of these files do.
    lines = [line for line in text.split("\n") if line]
    if not lines or len(lines) > most or any(not line.isprintable() for line in lines):
        raise Misused(f"{key} is not 1 to {most} printable lines")
    return lines


def usable_address(text: str) -> str | None:
    """An IP address (without a prefix length after a slash) in its canonical form if others can reach it, else None."""
    try:
        found = ipaddress.ip_address(text.partition("/")[0])
    except ValueError:
        return None
    if found.is_loopback or found.is_unspecified or found.is_multicast or found.is_link_local or found.is_reserved:
        return None
    return None if "%" in str(found) else str(found)


def assigned_addresses(machine: SiteMachine) -> tuple[str, ...]:
    """The addresses that the site gave a machine, or sees it use."""
    found = (usable_address(text) for text in machine.addresses[:MAX_ADDRESSES])
    return tuple(dict.fromkeys(text for text in found if text))


def clean_reason(data: bytes) -> str:
    """A guest's reason as one line of printable text, at most MAX_FAILURE_REASON characters: it is shown and logged."""
    text = " ".join(data[: 4 * MAX_FAILURE_REASON].decode("utf-8", "replace").split())
    return "".join(char if char.isprintable() else "?" for char in text)[:MAX_FAILURE_REASON] or "no reason given"


def find_peers(
    me: SiteMachine,
    members: Iterable[BrokerMember],
    needs: Mapping[str, RoleRequirement],
    role: str | None = None,
    least: PeerReadiness | None = None,
) -> ClusterPeers:
    """The peers in its own cluster that a machine may see.

    Args:
        me: the machine that asks.
        members: the machines of its cluster, possibly including itself.
        needs: the requirements of its role, by role.
        role: only this one of them.
        least: the readiness of peers, PRESENT or READY, instead of the required one.

    Raises:
        Forbidden: it asks for a role that its own does not require.
    """
    if role is not None and role not in needs:
        raise Forbidden(f"this machine's role does not require the role {role[:63]!r}")
    wanted = {
        name: need if least is None else RoleRequirement(need.count, least, need.silent)
        for name, need in needs.items()
        if role in (None, name)
    }
    found = [
        member.as_peer()
        for member in members
        if member.machine.uuid != me.uuid
        and not member.machine.ending
        and (need := wanted.get(member.machine.role)) is not None
        and member.enough(need)
    ]
    found.sort(key=lambda peer: (peer.role, peer.hostname, peer.machine))
    counts = {name: sum(peer.role == name for peer in found) for name in wanted}
    missing = {name: need.count - counts[name] for name, need in wanted.items() if counts[name] < need.count}
    return ClusterPeers(complete=not missing, missing=missing, peers=tuple(found))
