"""The context broker at work: invites machines, lets them in once, hears what they publish, tells them of their peers."""

import logging
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from deployer.errors import DeployerError, Forbidden, MachineNotFound, Misused, NotAuthenticated, SiteUnavailable
from deployer.site import broker_store as book
from deployer.site.authority import Authority
from deployer.site.broker import (
    ADDRESS,
    FAILED,
    HOST_KEYS,
    MAX_PUBLISHED,
    READY,
    SESSION_LIFE,
    Answer,
    Contact,
    Identity,
    Knock,
    Member,
    Need,
    Peers,
    Session,
    Standing,
    answer_to,
    check_key,
    check_published,
    clean_reason,
    digest,
    given_addresses,
    gone,
    holds,
    known_hosts_lines,
    meet,
    needs_of,
    parse_addresses,
    parse_host_keys,
    secret_of,
    session_of,
)
from deployer.site.cluster import Cluster
from deployer.site.desired import Context, DesiredMachine, DesiredState, Want
from deployer.site.host_certificates import host_certificate
from deployer.site.records import Deployment, Filter, SiteEvent, SiteMachine

KEY_BYTES = 32
PAGE = 1000
KEEP = timedelta(days=1)
"""How long the broker remembers a machine after its end: its host keys are still asked for, to see what happened."""

TIDY_AT_ONCE = 200

log = logging.getLogger("partita.site")


class Database(Protocol):
    """Where the broker's own tables are; `deployer.site.database.SiteDatabase` is one."""

    def reading(self) -> AbstractContextManager[Any]:
        """A read transaction."""

    def writing(self) -> AbstractContextManager[Any]:
        """A write transaction."""


class Machines(Protocol):
    """What the site knows; `deployer.site.store.SiteStore` is one."""

    def machine(self, uuid: str) -> SiteMachine:
        """One machine, or MachineNotFound."""

    def deployment(self, uuid: str) -> Deployment:
        """One deployment."""

    def machines(self, which: Filter, limit: int, after: str | None = None) -> tuple[Sequence[SiteMachine], str | None]:
        """A page of machines, and what the next one comes after."""

    def change_machine(
        self, uuid: str, change: Callable[[SiteMachine], SiteMachine], what: str, reason: str
    ) -> SiteMachine:
        """Change a machine, and say so in an event."""

    def append(self, kind: str, subject: str, what: str, reason: str, deployment: str | None = None) -> SiteEvent:
        """Say in an event what happened."""


def broker_key(path: Path) -> bytes:
    """The key that secrets are derived from, made at the first time: a file beside the database, not in it.

    Services that share a database share this file; a node that asks twice must be told the same.

    Raises:
        SiteUnavailable: it cannot be read or made, or is not whole.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
        if not path.exists():
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:  # noqa: PTH123 - an open descriptor, made exclusively
                file.write(secrets.token_bytes(KEY_BYTES))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(fresh, path)  # whoever comes second keeps the first one's
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        key = path.read_bytes()
    except OSError as exc:
        raise SiteUnavailable(f"{path}: the context broker's key cannot be kept: {exc.strerror or exc}") from exc
    if len(key) != KEY_BYTES:
        raise SiteUnavailable(
            f"{path}: is not the {KEY_BYTES} bytes of the context broker's key; restore it, or remove it"
        )
    return key


class Broker:
    """The context broker of a site. Safe to use from several threads.

    Args:
        machines, database: what the site knows, and where the broker's own tables are.
        cluster: finds a cluster by its UUID; ClusterNotFound.
        authority: the site's CA, for guests' certificates.
        key: see `broker_key`.
        url: of the broker as guests see it, without a path.
        fingerprint: SHA-256 (hex) of the certificate that the broker shows now; empty without TLS.
        clock: the present, UTC.
        new_nonce: something random, for a guest that brought no nonce.
        news: called after something changed for which peers may be waiting.
    """

    def __init__(
        self,
        machines: Machines,
        database: Database,
        cluster: Callable[[str], Cluster],
        authority: Authority,
        key: bytes,
        url: str,
        fingerprint: Callable[[], str],
        clock: Callable[[], datetime],
        new_nonce: Callable[[], str] = lambda: secrets.token_urlsafe(32),
        news: Callable[[], None] = lambda: None,
    ) -> None:
        self._machines, self._database, self._cluster = machines, database, cluster
        self._authority = authority
        self._key, self._url, self._fingerprint = key, url.rstrip("/"), fingerprint
        self._clock, self._new_nonce, self.news = clock, new_nonce, news

    def introduce(self, node: str, state: DesiredState) -> DesiredState:
        """A node's desired state with each machine's context in it: what its seed carries.

        A machine that comes to another node starts anew there, so it is invited again; on the same node it is told the
        same, however often the node asks.
        """
        guests = [machine for machine in state.machines if machine.want is not Want.ENDED]
        if not guests:
            return state
        uuids = [machine.uuid for machine in guests]
        with self._database.reading() as connection:
            known = book.contacts(connection, uuids)
        if any(machine.uuid not in known or known[machine.uuid].node != node for machine in guests):
            with self._database.writing() as connection:
                known = book.contacts(connection, uuids)
                for machine in guests:
                    known[machine.uuid] = self._invited(connection, known.get(machine.uuid), machine, node)
        introduced = tuple(
            machine.model_copy(update={"context": self._context(known[machine.uuid])})
            if machine.uuid in known
            else machine
            for machine in state.machines
        )
        return state.model_copy(update={"machines": introduced})

    def _invited(self, connection: Any, contact: Contact | None, machine: DesiredMachine, node: str) -> Contact:
        if contact is not None and contact.node == node:
            return contact
        generation = contact.generation + 1 if contact else 1
        secret = digest(secret_of(self._key, machine.uuid, generation))
        fresh = Contact(machine.uuid, node, generation, secret)
        book.withdraw(connection, machine.uuid)
        book.keep(connection, fresh, machine.ends + KEEP)
        return fresh

    def _context(self, contact: Contact) -> Context:
        secret = secret_of(self._key, contact.machine, contact.generation)
        return Context(url=self._url, secret=secret, fingerprint=self._fingerprint())

    def admit(self, knock: Knock) -> Session:
        """Let a machine in that shows its secret.

        Raises:
            Forbidden: the secret is not that machine's, or was used before; then its session ends too, and an event
                says so.
        """
        now = self._now()
        with self._database.writing() as connection:
            contact = book.contact(connection, knock.machine)
            answer = answer_to(contact, knock, now)
            nonce = knock.nonce or self._new_nonce()
            if contact is not None and answer in (Answer.ADMIT, Answer.REPEAT):
                session = session_of(self._key, contact, nonce)
                expires = now + SESSION_LIFE
                used = contact.used or now
                admitted = replace(contact, used=used, nonce=digest(nonce), session=digest(session), expires=expires)
                book.change(connection, admitted)
            elif contact is not None and answer is Answer.ALARM:
                book.change(connection, replace(contact, alarmed=contact.alarmed or now, session="", expires=None))
        match answer:
            case Answer.ADMIT | Answer.REPEAT:
                machine = self._live(knock.machine)
                machine = self._anew(machine) if answer is Answer.ADMIT else machine
                return Session(session=session, expires=expires, identity=self.identity(machine))
            case Answer.ALARM:
                self._alarm(knock.machine)
                raise Forbidden(
                    "this secret has been used; the site has been told, and believes nothing that this machine says"
                )
            case _:
                raise Forbidden("there is no such machine here, or its secret is another")

    def _anew(self, machine: SiteMachine) -> SiteMachine:
        """A machine that comes for the first time: what one before it on another node said is not its own word."""
        forgotten = {"ready": None, "host_keys": ()}
        return self._machines.change_machine(
            machine.uuid,
            lambda found: found.model_copy(update=forgotten),
            "met",
            "the machine has shown its secret to the context broker",
        )

    def _alarm(self, uuid: str) -> None:
        log.warning("machine %s: its one-shot secret was shown a second time", uuid)
        machine = self._machines.machine(uuid)
        self._machines.append(
            "machine",
            uuid,
            "alarm",
            "its one-shot secret was shown a second time: one of the two was not this machine; its session has been ended",
            machine.deployment,
        )
        self.news()

    def recognise(self, session: str) -> SiteMachine:
        """The machine whose session this is; NotAuthenticated if it is none, or over."""
        uuid = session.partition(".")[0]
        with self._database.reading() as connection:
            contact = book.contact(connection, uuid[:36])
        if not holds(contact, session, self._now()):
            raise NotAuthenticated("this session is unknown or over; sessions are renewed in time, or gone")
        return self._live(uuid)

    def renew(self, session: str) -> Session:
        """The same session for another hour."""
        machine = self.recognise(session)
        expires = self._now() + SESSION_LIFE
        with self._database.writing() as connection:
            contact = book.contact(connection, machine.uuid)
            if contact is None or not holds(contact, session, self._now()):
                raise NotAuthenticated("this session is over")
            book.change(connection, replace(contact, expires=expires))
        return Session(session=session, expires=expires, identity=self.identity(machine))

    def identity(self, machine: SiteMachine) -> Identity:
        """Who a machine is."""
        deployment = self._machines.deployment(machine.deployment)
        needs = self._needs(machine, deployment)
        return Identity(
            machine=machine.uuid,
            deployment=machine.deployment,
            hostname=machine.hostname,
            role=machine.role,
            cluster=deployment.cluster or "",
            addresses=given_addresses(machine),
            requires={role: need.count for role, need in needs.items()},
            ends=machine.ends,
        )

    def publish(self, machine: SiteMachine, key: str, data: bytes) -> None:
        """Keep what a machine says to its peers, and to its owner where it is its host keys.

        Raises:
            Misused: too large, too many, or not of the form that its key promises.
        """
        check_published(key, data)
        with self._database.writing() as connection:
            present = book.sizes(connection, [machine.uuid]).get(machine.uuid, {})
            if key not in present and len(present) >= MAX_PUBLISHED:
                raise Misused(f"a machine publishes at most {MAX_PUBLISHED} values")
            book.publish(connection, machine.uuid, key, data, self._now())
        if key == HOST_KEYS:
            keys = parse_host_keys(data)
            if keys != machine.host_keys:
                self._machines.change_machine(
                    machine.uuid,
                    lambda found: found.model_copy(update={"host_keys": keys}),
                    "host-keys",
                    f"the guest published {len(keys)} SSH host keys",
                )
        self.news()

    def peers(self, machine: SiteMachine, role: str | None = None, least: Standing | None = None) -> Peers:
        """The peers that a machine requires and that have come far enough; Forbidden for any other role."""
        deployment = self._machines.deployment(machine.deployment)
        needs = self._needs(machine, deployment)
        return meet(machine, self._members(deployment.cluster) if needs else (), needs, role, least)

    def read(self, machine: SiteMachine, hostname: str, key: str) -> bytes:
        """What a peer published under a key.

        Raises:
            Forbidden: there is no such peer that this machine requires, or it published nothing under that key.
            Misused: that is no key.
        """
        check_key(key)
        found = [
            peer
            for peer in self.peers(machine, least=Standing.PRESENT).peers
            if hostname in (peer.hostname, peer.machine)
        ]
        if not found:
            raise Forbidden(f"no peer {hostname[:80]!r} is here that this machine requires")
        with self._database.reading() as connection:
            value = book.values(connection, [found[0].machine], key).get(found[0].machine)
        if value is None:
            raise Forbidden(f"{hostname[:80]} has published nothing under {key!r}")
        return value

    def ready(self, machine: SiteMachine) -> None:
        """The machine says that it is ready. Once it is, saying so again changes nothing."""
        self._say(machine, READY, READY, "the guest says that it is ready")

    def failed(self, machine: SiteMachine, reason: bytes) -> None:
        """The machine says that it cannot become ready, and why."""
        said = clean_reason(reason)
        self._say(machine, FAILED + said, "not-ready", said)

    def _say(self, machine: SiteMachine, ready: str, what: str, reason: str) -> None:
        if machine.ready != ready:
            self._machines.change_machine(
                machine.uuid, lambda found: found.model_copy(update={"ready": ready}), what, reason
            )
            self.news()

    def certificate(self, machine: SiteMachine, request: str) -> str:
        """A certificate for exactly the name and addresses that the site gave; errors as `host_certificate`."""
        issued = host_certificate(self._authority, machine, request, self._now())
        self._machines.append(
            "machine", machine.uuid, "certified", "the site signed a host certificate for the guest", machine.deployment
        )
        return issued

    def known_hosts(self, deployment: str) -> list[str]:
        """Lines of known_hosts for a deployment's machines: of those whose secret exactly one party showed."""
        machines = self._all(Filter(deployment=deployment))
        uuids = [machine.uuid for machine in machines]
        with self._database.reading() as connection:
            known = book.contacts(connection, uuids)
            said = book.values(connection, uuids, ADDRESS)
        lines: list[str] = []
        for machine in machines:
            contact = known.get(machine.uuid)
            if contact is not None and contact.sound and not gone(machine):
                addresses = given_addresses(machine) or _parsed(said.get(machine.uuid))
                lines += known_hosts_lines(machine.hostname, addresses, machine.host_keys)
        return lines

    def tidy(self) -> int:
        """Forget machines that are long over; returns how many. Cheap when there is nothing to do."""
        now, forgotten = self._now(), 0
        with self._database.reading() as connection:
            past = book.past(connection, now, TIDY_AT_ONCE)
        for uuid in past:
            try:
                machine = self._machines.machine(uuid)
                until = now + KEEP if machine.ends <= now else machine.ends + KEEP
            except MachineNotFound:
                machine = None
            with self._database.writing() as connection:
                if machine is None or gone(machine):
                    book.forget(connection, uuid)
                    forgotten += 1
                else:
                    book.postpone(connection, uuid, until)
        return forgotten

    def _now(self) -> datetime:
        """The present as records carry it: whole seconds."""
        return self._clock().replace(microsecond=0)

    def _live(self, uuid: str) -> SiteMachine:
        try:
            machine = self._machines.machine(uuid)
        except MachineNotFound as exc:
            raise NotAuthenticated("this machine is over") from exc
        if gone(machine):
            raise NotAuthenticated("this machine is over")
        return machine

    def _needs(self, machine: SiteMachine, deployment: Deployment) -> dict[str, Need]:
        if deployment.cluster is None:
            return {}
        return needs_of(self._cluster(deployment.cluster), machine.role)

    def _members(self, cluster: str | None) -> list[Member]:
        if cluster is None:
            return []
        machines = self._all(Filter(cluster=cluster))
        uuids = [machine.uuid for machine in machines]
        with self._database.reading() as connection:
            known = book.contacts(connection, uuids)
            sizes = book.sizes(connection, uuids)
            said = book.values(connection, uuids, ADDRESS)
        return [
            Member(machine, known.get(machine.uuid), sizes.get(machine.uuid, {}), _parsed(said.get(machine.uuid)))
            for machine in machines
        ]

    def _all(self, which: Filter) -> list[SiteMachine]:
        found: list[SiteMachine] = []
        after: str | None = None
        while True:
            page, after = self._machines.machines(which, PAGE, after)
            found += page
            if after is None:
                return found


def _parsed(data: bytes | None) -> tuple[str, ...]:
    try:
        return parse_addresses(data) if data else ()
    except DeployerError:  # a stricter version than the one that let it in
        return ()
