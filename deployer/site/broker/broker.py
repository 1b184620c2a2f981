"""The context broker: invites machines, admits each once, keeps what they publish, and tells them of their peers."""

import logging
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from catalog.errors import Misused
from deployer.errors import Forbidden, MachineNotFound, NotAuthenticated, SiteUnavailable
from deployer.pki.ca import CertificateAuthority
from deployer.protocol.desired_state import BrokerAccess, DesiredMachine, DesiredState, DesiredStatus
from deployer.site.broker.guest_certificates import issue_guest_certificate
from deployer.site.broker.peers import FRESH_FOR, PeerDirectory
from deployer.site.broker.rules import (
    ADDRESS_KEY,
    FAILED,
    HOST_KEYS_KEY,
    MAX_PUBLISHED,
    READY,
    SESSION_LIFE,
    ContextDecision,
    assigned_addresses,
    check_published,
    clean_reason,
    derive_secret,
    derive_session,
    evaluate_context_request,
    is_session_valid,
    parse_addresses,
    parse_host_keys,
    secret_digest,
)
from deployer.site.broker.schema import ContextRequest, ContextSession, GuestIdentity
from deployer.site.db import contexts
from deployer.site.db.machines import get_machine
from deployer.site.model.contact import BrokerContact
from deployer.site.model.records import SiteMachine
from deployer.site.store.changes import change_machine
from deployer.site.store.store import SiteStore
from deployer.site.store.unit_of_work import UnitOfWork
from signer.runtime import files

KEY_BYTES = 32
KEEP = timedelta(days=1)
"""How long the broker keeps a machine after its end: its host keys are still needed to find out what happened."""

TIDY_AT_ONCE = 200

log = logging.getLogger("partita.site")


def broker_key(path: Path) -> bytes:
    """The key that secrets are derived from, made at first use: a file beside the database, not in it.

    Services that share a database share this file: a node that asks twice must get the same secret.

    Raises:
        SiteUnavailable: it cannot be read or made, or is incomplete.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            with suppress(FileExistsError):  # another service made it first
                files.create(path, secrets.token_bytes(KEY_BYTES))
        key = path.read_bytes()
    except OSError as exc:
        raise SiteUnavailable(f"{path}: cannot read or create the context broker's key: {exc.strerror or exc}") from exc
    if len(key) != KEY_BYTES:
        raise SiteUnavailable(
            f"{path}: the context broker's key does not have {KEY_BYTES} bytes; restore the file, or remove it"
        )
    return key


@dataclass(frozen=True)
class BrokerEndpoint:
    """How guests reach a broker.

    Attributes:
        url: for guests, without a path.
        key: see `broker_key`.
        fingerprint: returns the SHA-256 (hex) of the broker's present certificate; empty without TLS.
    """

    url: str
    key: bytes
    fingerprint: Callable[[], str]


class Broker:
    """The context broker of a site. Safe to use from several threads. Its `directory` finds the peers of machines.

    Args:
        store: of the site.
        authority: the site's CA, for guests' certificates.
        endpoint: how guests reach it.
        clock: the present, UTC.
        new_nonce: returns random text, for a guest that sent no nonce.
        news: called after a change that peers may be waiting for.
        monotonic, fresh_for: see `PeerDirectory`.
    """

    def __init__(
        self,
        store: SiteStore,
        authority: CertificateAuthority,
        endpoint: BrokerEndpoint,
        clock: Callable[[], datetime],
        new_nonce: Callable[[], str] = lambda: secrets.token_urlsafe(32),
        news: Callable[[], None] = lambda: None,
        monotonic: Callable[[], float] = time.monotonic,
        fresh_for: float = FRESH_FOR,
    ) -> None:
        self._store, self._database, self._authority = store, store.database, authority
        self.directory = PeerDirectory(store, monotonic, fresh_for)
        self._endpoint, self._key = endpoint, endpoint.key
        self._clock, self._new_nonce, self.news = clock, new_nonce, news

    def introduce(self, node: str, state: DesiredState) -> DesiredState:
        """A node's desired state with each machine's context in it, for the machine's seed.

        A machine that is placed on another node starts anew there, so it is invited again; on the same node it gets the
        same context, however often the node asks.
        """
        guests = [machine for machine in state.machines if machine.desired is not DesiredStatus.ENDED]
        if not guests:
            return state
        uuids = [machine.uuid for machine in guests]
        known = self._store.read(contexts.get_contacts, uuids)
        if any(machine.uuid not in known or known[machine.uuid].node != node for machine in guests):
            with self._database.writing() as connection:
                known = contexts.get_contacts(connection, uuids)
                for machine in guests:
                    known[machine.uuid] = self._invited(connection, known.get(machine.uuid), machine, node)
        introduced = tuple(
            machine.model_copy(update={"context": self._context(known[machine.uuid])})
            if machine.uuid in known
            else machine
            for machine in state.machines
        )
        return state.model_copy(update={"machines": introduced})

    def _invited(
        self, connection: Any, contact: BrokerContact | None, machine: DesiredMachine, node: str
    ) -> BrokerContact:
        if contact is not None and contact.node == node:
            return contact
        generation = contact.generation + 1 if contact else 1
        secret = secret_digest(derive_secret(self._key, machine.uuid, generation))
        fresh = BrokerContact(machine.uuid, node, generation, secret)
        contexts.delete_values(connection, machine.uuid)
        contexts.put_contact(connection, fresh, machine.expires + KEEP)
        return fresh

    def _context(self, contact: BrokerContact) -> BrokerAccess:
        secret = derive_secret(self._key, contact.machine, contact.generation)
        return BrokerAccess(url=self._endpoint.url.rstrip("/"), secret=secret, fingerprint=self._endpoint.fingerprint())

    def admit(self, knock: ContextRequest) -> ContextSession:
        """Admit a machine that presents its secret.

        Raises:
            Forbidden: the secret is not that machine's, or was used before; then its session ends too, and an event
                records it.
        """
        now = self._now()
        with self._database.writing() as connection:
            contact = contexts.get_contact(connection, knock.machine)
            answer = evaluate_context_request(contact, knock, now)
            nonce = knock.nonce or self._new_nonce()
            if contact is not None and answer in (ContextDecision.ADMIT, ContextDecision.REPEAT):
                session = derive_session(self._key, contact, nonce)
                expires = now + SESSION_LIFE
                used = contact.used or now
                admitted = replace(
                    contact, used=used, nonce=secret_digest(nonce), session=secret_digest(session), expires=expires
                )
                contexts.update_contact(connection, admitted)
            elif contact is not None and answer is ContextDecision.ALARM:
                contexts.update_contact(
                    connection, replace(contact, alarmed=contact.alarmed or now, session="", expires=None)
                )
        match answer:
            case ContextDecision.ADMIT | ContextDecision.REPEAT:
                machine = self._live(knock.machine)
                machine = self._anew(machine) if answer is ContextDecision.ADMIT else machine
                return ContextSession(session=session, expires=expires, identity=self.identity(machine))
            case ContextDecision.ALARM:
                self._alarm(knock.machine)
                raise Forbidden(
                    "this secret was already used; the site has been alerted and no longer trusts this machine"
                )
            case _:
                raise Forbidden("unknown machine, or its secret does not match")

    def _anew(self, machine: SiteMachine) -> SiteMachine:
        """Reset what an earlier instance of the machine, on another node, published."""
        forgotten = {"ready": None, "host_keys": (), "guest_addresses": ()}
        return self._change(machine, forgotten, "met", "the machine has presented its secret to the context broker")

    def _change(self, machine: SiteMachine, update: Mapping[str, Any], what: str, reason: str) -> SiteMachine:
        return self._store.write(change_machine, machine.uuid, lambda found: found.transition((what, reason), **update))

    def _alarm(self, uuid: str) -> None:
        log.warning("machine %s: its one-shot secret was presented a second time", uuid)
        machine = self._store.read(get_machine, uuid)
        reason = "its one-shot secret was presented a second time: one of the two senders was not this machine; its "
        self._add_event(machine, "alarm", f"{reason}session has been ended")
        self.news()

    def recognise(self, session: str) -> SiteMachine:
        """The machine of a session; NotAuthenticated if it is unknown or expired."""
        uuid = session.partition(".")[0]
        contact = self._store.read(contexts.get_contact, uuid[:36])
        if not is_session_valid(contact, session, self._now()):
            raise NotAuthenticated("unknown or expired session; sessions must be renewed before they expire")
        return self._live(uuid)

    def renew(self, session: str) -> ContextSession:
        """Extend a session by another hour."""
        machine = self.recognise(session)
        expires = self._now() + SESSION_LIFE
        with self._database.writing() as connection:
            contact = contexts.get_contact(connection, machine.uuid)
            if contact is None or not is_session_valid(contact, session, self._now()):
                raise NotAuthenticated("this session has expired")
            contexts.update_contact(connection, replace(contact, expires=expires))
        return ContextSession(session=session, expires=expires, identity=self.identity(machine))

    def identity(self, machine: SiteMachine) -> GuestIdentity:
        """The identity of a machine at its site."""
        cluster, needs = self.directory.needs(machine)
        return GuestIdentity(
            machine=machine.uuid,
            deployment=machine.deployment,
            hostname=machine.hostname,
            role=machine.role,
            cluster=cluster,
            addresses=assigned_addresses(machine),
            requires={role: need.count for role, need in needs.items()},
            ends=machine.expires,
        )

    def publish(self, machine: SiteMachine, key: str, data: bytes) -> None:
        """Store a value that a machine publishes to its peers; host keys and addresses are shown to its owner as well.

        Raises:
            Misused: the value is too large, one too many, or not of the form that its key requires.
        """
        check_published(key, data)
        with self._database.writing() as connection:
            present = contexts.published_sizes(connection, [machine.uuid]).get(machine.uuid, {})
            if key not in present and len(present) >= MAX_PUBLISHED:
                raise Misused(f"a machine publishes at most {MAX_PUBLISHED} values")
            contexts.put_value(connection, machine.uuid, key, data, self._now())
        if key == HOST_KEYS_KEY:
            keys = parse_host_keys(data)
            if keys != machine.host_keys:
                self._change(
                    machine, {"host_keys": keys}, "host-keys", f"the guest published {len(keys)} SSH host keys"
                )
        elif key == ADDRESS_KEY:
            said = parse_addresses(data)
            if said != machine.guest_addresses:
                self._change(
                    machine,
                    {"guest_addresses": said},
                    "said-addresses",
                    f"the guest published the addresses {', '.join(said)}",
                )
        self.news()

    def ready(self, machine: SiteMachine) -> None:
        """Record that the machine reports ready; a repetition changes nothing."""
        self._set_ready(machine, READY, READY, "the guest reports that it is ready")

    def failed(self, machine: SiteMachine, reason: bytes) -> None:
        """Record that the machine reports that it cannot become ready, with its reason."""
        said = clean_reason(reason)
        self._set_ready(machine, FAILED + said, "not-ready", said)

    def _set_ready(self, machine: SiteMachine, ready: str, what: str, reason: str) -> None:
        if machine.ready != ready:
            self._change(machine, {"ready": ready}, what, reason)
            self.news()

    def certificate(self, machine: SiteMachine, request: str) -> str:
        """A certificate for exactly the name and addresses that the site gave; errors as `issue_guest_certificate`."""
        issued = issue_guest_certificate(self._authority, machine, request, self._now())
        self._add_event(machine, "certified", "the site signed a host certificate for the guest")
        return issued

    def _add_event(self, machine: SiteMachine, what: str, reason: str) -> None:
        self._store.write(UnitOfWork.add_event, "machine", machine.uuid, what, reason, machine.deployment)

    def tidy(self) -> int:
        """Delete machines that ended long ago; returns how many. Cheap when there is nothing to do."""
        now, forgotten = self._now(), 0
        past = self._store.read(contexts.expired_contacts, now, TIDY_AT_ONCE)
        for uuid in past:
            try:
                machine = self._store.read(get_machine, uuid)
                until = now + KEEP if machine.expires <= now else machine.expires + KEEP
            except MachineNotFound:
                machine = None
            with self._database.writing() as connection:
                if machine is None or machine.ending:
                    contexts.delete_contact(connection, uuid)
                    forgotten += 1
                else:
                    contexts.postpone_expiry(connection, uuid, until)
        return forgotten

    def _now(self) -> datetime:
        """The present as records carry it: whole seconds."""
        return self._clock().replace(microsecond=0)

    def _live(self, uuid: str) -> SiteMachine:
        try:
            machine = self._store.read(get_machine, uuid)
        except MachineNotFound as exc:
            raise NotAuthenticated("this machine has ended") from exc
        if machine.ending:
            raise NotAuthenticated("this machine has ended")
        return machine
