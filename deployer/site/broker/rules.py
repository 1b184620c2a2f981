"""What the context broker says to machines and hears from them, and its decisions. Pure: values in, values or errors out.

A machine comes with a secret that is good once. For it it gets a session, learns who it is, publishes what others need
of it, learns of the peers that its role requires, and says whether it is ready. Everything that a guest publishes is
another guest's input: what can end up in a line of somebody's /etc/hosts or known_hosts is checked here, and refused,
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
from deployer.protocol.desired_state import DesiredStatus
from deployer.site.broker.schema import ClusterPeer, ClusterPeers, ContextRequest, PeerReadiness
from deployer.site.model.cluster import Cluster
from deployer.site.model.contact import BrokerContact
from deployer.site.model.records import SiteMachine

SESSION_LIFE = timedelta(hours=1)
"""How long a session holds without being renewed: the steps of a contextualization take minutes."""

RETRY_LIFE = timedelta(minutes=2)
"""How long a machine whose first answer was lost may ask for it again, showing the nonce that it made for this."""

MAX_DATA = 64 << 10
"""Bytes of one published value: keys, a configuration file. Data belongs on a partition."""

MAX_PUBLISHED = 16
"""Values of one machine."""

MAX_HOST_KEYS = 8
"""One of each type that OpenSSH knows, and room."""

MAX_ADDRESSES = 16
"""Addresses of one machine."""

MAX_FAILURE_REASON = 300
"""Characters of the reason with which a machine says that it failed: a script's name and its last line."""

ADDRESS_KEY: Final = "address"
"""The key under which a machine publishes its own addresses, one a line."""

HOST_KEYS_KEY: Final = "ssh-host-keys"
"""The key under which a machine publishes its SSH host keys, one a line, as in ssh_host_ed25519_key.pub."""

READY: Final = "ready"
FAILED: Final = "failed: "
"""What `SiteMachine.ready` begins with when the guest said that it failed."""

_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class RoleRequirement:
    """What a machine needs of a role: so many members, and how far they must have come.

    Attributes:
        silent: whether that role's members are taken for ready as soon as they run, since they never say so.
    """

    count: int
    least: PeerReadiness = PeerReadiness.READY
    silent: bool = False


def requirements_of(cluster: Cluster, role: str) -> dict[str, RoleRequirement]:
    """What the members of a role need of others, by role.

    Of roles that are only watched it needs nobody. Members of one's own role need only be present: if each waited for the others to be ready, none ever would be.
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
    """A machine, what the broker remembers of it, and what it published (key to size), with its own word on addresses."""

    machine: SiteMachine
    contact: BrokerContact | None
    published: Mapping[str, int]
    said: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether what it published is its own word."""
        return self.contact is not None and self.contact.sound

    @property
    def standing(self) -> PeerReadiness:
        """See there. Whose secret was shown by two parties has not come at all."""
        if not self.sound:
            return PeerReadiness.ABSENT
        if self.machine.ready == READY:
            return PeerReadiness.READY
        if self.machine.ready is not None:
            return PeerReadiness.FAILED
        return PeerReadiness.PRESENT if self.addresses else PeerReadiness.ABSENT

    @property
    def addresses(self) -> tuple[str, ...]:
        """Those of the site, else its own word."""
        return assigned_addresses(self.machine) or (self.said if self.sound else ())

    def enough(self, need: RoleRequirement) -> bool:
        """Whether it has come as far as is needed."""
        if need.silent and not self.sound:
            return self.machine.state is MachineState.RUNNING and bool(self.addresses)
        return self.standing is PeerReadiness.READY or self.standing is need.least

    def as_peer(self) -> ClusterPeer:
        """As its peers are told."""
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
    """The secret of a machine's n-th invitation: it can be told to a node again after a crash, and need not be stored."""
    return _derived(key, "secret", machine, str(generation))


def derive_session(key: bytes, contact: BrokerContact, nonce: str) -> str:
    """The session for a machine that showed its secret together with a nonce (or something random in its place)."""
    return f"{contact.machine}.{_derived(key, 'session', contact.machine, str(contact.generation), nonce)}"


def _derived(key: bytes, *parts: str) -> str:
    made = hmac.digest(key, "\0".join(parts).encode(), "sha256")
    return base64.urlsafe_b64encode(made).decode("ascii").rstrip("=")


class ContextDecision(StrEnum):
    """What a knock deserves."""

    ADMIT = "admit"
    REPEAT = "repeat"
    ALARM = "alarm"
    REFUSE = "refuse"


def evaluate_context_request(contact: BrokerContact | None, knock: ContextRequest, now: datetime) -> ContextDecision:
    """Whether a secret lets a machine in. Compares in constant time, also where there is no such machine.

    The right secret shown a second time is an alarm: one of the two was not the machine.
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
    """Whether a session is that of a machine, and holds now."""
    right = hmac.compare_digest(contact.session if contact and contact.session else "0" * 64, secret_digest(session))
    return right and contact is not None and contact.sound and contact.expires is not None and now < contact.expires


def is_over(machine: SiteMachine) -> bool:
    """Whether a machine is over, or should be: the broker does not speak with it any more."""
    return machine.want is DesiredStatus.ENDED or machine.state.final


def check_key(key: str) -> str:
    """The name of something published, or Misused: it may become a file's name in other guests."""
    if not _KEY.fullmatch(key) or ".." in key:
        raise Misused(
            f"{key[:80]!r} is not a valid key: use at most 64 letters, digits, inner dots, hyphens and underscores, no two dots together"
        )
    return key


def check_published(key: str, data: bytes) -> None:
    """Refuse (Misused) what is too large, or not of the form that its key promises to other guests."""
    check_key(key)
    if len(data) > MAX_DATA:
        raise Misused(f"{key} has {len(data)} bytes, more than the {MAX_DATA} that a machine may publish")
    if key == ADDRESS_KEY:
        parse_addresses(data)
    elif key == HOST_KEYS_KEY:
        parse_host_keys(data)


def parse_addresses(data: bytes) -> tuple[str, ...]:
    """The addresses that a guest says it has, one a line; Misused if one is none by which others could reach it."""
    lines = _lines(ADDRESS_KEY, data, MAX_ADDRESSES)
    for line in lines:
        if (found := usable_address(line)) is None or found != line:
            raise Misused(f"{line[:60]!r} is not an address that other machines can reach; write it as 192.0.2.7")
    return tuple(dict.fromkeys(lines))


def parse_host_keys(data: bytes) -> tuple[str, ...]:
    """The host keys that a guest says it has: type and blob, one a line, comments dropped; Misused if one is none."""
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
    """An IP address (what follows a slash is left out) in its usual form if others can reach it, else None."""
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
    """A guest's reason as one line of printable text, at most MAX_REASON characters: it goes to people and to logs."""
    text = " ".join(data[: 4 * MAX_FAILURE_REASON].decode("utf-8", "replace").split())
    return "".join(char if char.isprintable() else "?" for char in text)[:MAX_FAILURE_REASON] or "no reason given"


def find_peers(
    me: SiteMachine,
    members: Iterable[BrokerMember],
    needs: Mapping[str, RoleRequirement],
    role: str | None = None,
    least: PeerReadiness | None = None,
) -> ClusterPeers:
    """The peers that a machine may know, of those in its own cluster.

    Args:
        me: who asks.
        members: the machines of its cluster, itself perhaps among them.
        needs: what its role needs of others.
        role: only this one of them.
        least: how far peers must have come, PRESENT or READY, instead of what is needed.

    Raises:
        Forbidden: it asks for a role that its own does not require.
    """
    if role is not None and role not in needs:
        raise Forbidden(f"the role {role[:63]!r} is not among those that this machine's own requires")
    wanted = {
        name: need if least is None else RoleRequirement(need.count, least, need.silent)
        for name, need in needs.items()
        if role in (None, name)
    }
    found = [
        member.as_peer()
        for member in members
        if member.machine.uuid != me.uuid
        and not is_over(member.machine)
        and (need := wanted.get(member.machine.role)) is not None
        and member.enough(need)
    ]
    found.sort(key=lambda peer: (peer.role, peer.hostname, peer.machine))
    counts = {name: sum(peer.role == name for peer in found) for name in wanted}
    missing = {name: need.count - counts[name] for name, need in wanted.items() if counts[name] < need.count}
    return ClusterPeers(complete=not missing, missing=missing, peers=tuple(found))
