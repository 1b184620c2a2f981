"""The node's part in all swarms: which contents, with whom, how far; kept up over failures of the peer process.

`Swarm` owns one peer process and replaces it when it crashes, falls silent or grows too large, and tells the new one what
the old one was doing. It announces every content to the tracker and lets in exactly those whom the tracker named.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from catalog.image.address import Address
from catalog.swarm.tracker import Endpoint
from stager.content.leaf_set import LeafSet
from stager.content.piece_map import PieceMap
from stager.errors import PeerFailed, TrackerRefuses, TrackerUnavailable
from stager.peer.engine_profiles import EngineProfile, choose_common_profile
from stager.peer.protocol import (
    AddContent,
    AddressBlocked,
    AllowAddresses,
    ConnectPeers,
    ContentComplete,
    ContentProgress,
    CorruptPiece,
    FileMoved,
    PeerBanned,
    PeerEvent,
    PeerFailure,
    PiecesReceived,
    PiecesWritten,
    RemoveContent,
    SessionReady,
    StartSession,
    TuneSession,
)
from stager.peer.supervisor import PeerProcess
from stager.swarm.announcer import Announcer
from stager.swarm.grants import PUBLIC_CREDENTIALS, CredentialsProvider, public_credentials
from stager.swarm.options import SwarmOptions
from stager.swarm.torrent_state import SwarmTorrent
from stager.swarm.tracker_client import TrackerClient

log = logging.getLogger("partita.swarm")

TURN = 0.1
"""Seconds between looks at the peer process."""

START = 10.0
"""Seconds that a new peer process has until it listens."""

NEVER = float("inf")

RESTARTS = 5
RESTART_WINDOW = 30.0
"""So many restarts within so many seconds, and the swarm is given up for HTTP: something is wrong that lasts."""


class Swarm:
    """All contents that this node shares. Safe to use from several threads; a context manager that ends what it started.

    Args:
        tracker: speaks with the tracker; None when peers are told by `introduce` alone.
        options: see there.
        boot: names this boot of the machine, for journals.
        clock: seconds.
        admission: what opens swarms to us.
    """

    def __init__(
        self,
        tracker: TrackerClient | None,
        options: SwarmOptions,
        *,
        boot: str,
        clock: Callable[[], float] = time.monotonic,
        admission: CredentialsProvider = public_credentials,
    ) -> None:
        self._options, self._boot, self._clock, self._admission = options, boot, clock, admission
        self._members: dict[Address, SwarmTorrent] = {}
        self._changed = threading.Condition(threading.RLock())
        self._allowed: frozenset[str] = frozenset()
        self._refused: set[str] = set()
        self._ending = threading.Event()
        self._profile = EngineProfile.BULK
        self._restarts: list[float] = []
        self._process: PeerProcess | None = None
        self.port = self.tls_port = 0
        self.failure: str | None = None
        self._keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        self._meeting = tracker and Announcer(tracker, self.port_for, lambda: self.members, self._named, clock)

    def __enter__(self) -> Self:
        """Start the peer process and wait until it listens."""
        with self._changed:
            self._start()
            deadline = self._clock() + START
            while 0 in (self.port, self.tls_port) and self.failure is None and self._clock() < deadline:
                self._changed.wait(TURN)
        if 0 in (self.port, self.tls_port):
            self._stop()
            raise PeerFailed(
                f"the peer process does not listen on {self._options.listen}: {self.failure or 'too slow'}"
            )
        self._keeper.start()
        if self._meeting:
            self._meeting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the peer process, and tell the tracker that we are gone if it listens."""
        self._ending.set()
        self._keeper.join()
        self._stop()
        if self._meeting:
            self._meeting.end()

    # What the node asks for.

    def join(
        self, guide: PieceMap, path: Path, leaves: LeafSet | None = None, journal: Path | None = None
    ) -> SwarmTorrent:
        """Take part in a content's swarm.

        Args:
            guide: the content with its proved piece layer.
            path: its file.
            leaves: what of it is here and right; None is everything, which is believed and not hashed again.
            journal: where the state of leaves is kept while it is incomplete.

        A content that may be restricted, and for which there is no pass, never enters a swarm: its member has a failure.
        """
        if guide.layer is None:
            raise ValueError(f"{guide.address} has no proved piece layer; without one nothing is checked as it arrives")
        if leaves is None or leaves.complete:
            leaves = LeafSet(guide.address)
            leaves.add(0, guide.address.size)
        refusal, admission = None, PUBLIC_CREDENTIALS
        try:
            admission = self._admission(guide.address)
        except (TrackerUnavailable, TrackerRefuses) as exc:
            refusal = str(exc)
        with self._changed:
            member = SwarmTorrent(guide, path, leaves, leaves.complete, self._clock(), journal, admission=admission)
            if guide.address in self._members:
                self._send(RemoveContent(address=guide.address))
            self._members[guide.address] = member
            if refusal is not None:
                log.info("%s", refusal)
                member.kept_out, member.failure, member.announce_at = True, refusal, NEVER
            self._add(member)
        self._announce()
        return member

    def port_for(self, member: SwarmTorrent) -> int:
        """Where we listen for the peers of a content."""
        return self.tls_port if member.admission.authority else self.port

    def leave(self, address: Address) -> None:
        """Take part no more; the file stays as it is."""
        with self._changed:
            member = self._members.pop(address, None)
            self._send(RemoveContent(address=address))
        if member and self._meeting:
            self._meeting.leave(member)

    def moved(self, address: Address, path: Path) -> None:
        """The content's file has been renamed; connections stay."""
        with self._changed:
            if member := self._members.get(address):
                member.path = path
                self._send(FileMoved(address=address, path=str(path)))

    def wrote(self, member: SwarmTorrent, pieces: list[int]) -> None:
        """Pieces that were proved and written into the file from elsewhere: now the swarm may have them from us."""
        with self._changed:
            self._came(member, pieces)
            self._send(PiecesWritten(address=member.address, pieces=tuple(pieces)))

    def introduce(self, member: SwarmTorrent, peers: set[Endpoint]) -> None:
        """Peers to call, and to let in."""
        with self._changed:
            new = peers - member.named
            member.named |= peers
            self._let_in()
            if new:
                self._connect(member, new)

    def readd(self, member: SwarmTorrent, *, forget: bool = False) -> None:
        """Leave the swarm and join it again, which forgets bans and dead connections; `forget` drops the peers too."""
        with self._changed:
            if member.kept_out:
                return
            self._send(RemoveContent(address=member.address))
            if forget:
                member.named = set()
                member.announce_at = 0.0
            member.restarted()
            member.reprove()
            self._add(member)
        self._announce()

    def limit(self, upload: int, download: int) -> None:
        """Limit what all contents together send and receive, in bytes per second, from now on; 0 is no limit."""
        with self._changed:
            self._options = replace(self._options, upload_limit=upload, download_limit=download)
            self._send(TuneSession(profile=self._profile, upload_limit=upload, download_limit=download))

    def wait(self, until: Callable[[], bool], seconds: float) -> bool:
        """Wait for a condition over members; returns whether it holds."""
        with self._changed:
            return self._changed.wait_for(until, seconds)

    @property
    def members(self) -> list[SwarmTorrent]:
        """All contents, as they stand."""
        with self._changed:
            return list(self._members.values())

    @property
    def name(self) -> str:
        """What we call ourselves to peers."""
        return self._options.name

    @property
    def restarts(self) -> int:
        """How often the peer process was replaced of late."""
        return len(self._restarts)

    @property
    def peer_pid(self) -> int:
        """The peer process's number; 0 when there is none."""
        return self._process.pid if self._process else 0

    # What the peer process says.

    def _hear(self, process: list[PeerProcess], event: PeerEvent) -> None:
        with self._changed:
            if not process or process[0] is not self._process:
                return  # the last words of one that was replaced
            match event:
                case SessionReady(tls=True):
                    self.tls_port = event.port
                case SessionReady():
                    self.port = event.port
                case AddressBlocked():
                    self._announce(knocked=True)
                case PeerFailure(address=None):
                    self.failure = event.reason
                    log.warning("peer process: %s", event.reason)
                case _:
                    if member := self._members.get(event.address):  # type: ignore[union-attr,arg-type]
                        self._hear_of(member, event)
            self._changed.notify_all()

    def _hear_of(self, member: SwarmTorrent, event: PeerEvent) -> None:
        match event:
            case PiecesReceived() if member.failure is None:
                self._came(member, event.pieces)
            case ContentProgress():
                member.progress = event
                member.keep_journal(self._boot, self._clock())
            case ContentComplete():
                member.completed()
                self._announce()
            case CorruptPiece():
                self._poisoned(member, event)
            case PeerBanned():
                member.suspects.add(event.peer)
            case PeerFailure() if member.failure is None:  # one cause has many effects
                member.failure = event.reason
                log.warning("%s: %s", member.address, event.reason)
                # Pieces are said to be here when they are right, which may be before they are written.
                self._send(RemoveContent(address=member.address))
                member.reprove()

    def _poisoned(self, member: SwarmTorrent, event: CorruptPiece) -> None:
        """Who is certain to have sent a wrong piece is let in no more, from whatever port."""
        if member.poisoned(event) and event.culprit:
            log.warning("%s: piece %d from %s was wrong; it is refused", member.address, event.piece, event.culprit)
            self._refused.add(event.culprit.rpartition(":")[0].strip("[]"))
            self._let_in()

    def _came(self, member: SwarmTorrent, pieces: list[int] | tuple[int, ...]) -> None:
        new = [piece for piece in pieces if member.leaves.add_piece(piece)]
        if new:
            member.progress_at = self._clock()
            member.fresh.update(new)
        self._changed.notify_all()

    # The process and its keeper.

    def _start(self) -> None:
        host, _, port = self._options.listen.rpartition(":")
        # The tracker has told others of the ports that we had. The second one is for TLS, which the `s` says.
        plain = self.port or int(port)
        listen = f"{host}:{plain},{host}:{self.tls_port or (plain and plain + 1)}s"
        known: list[PeerProcess] = []
        self._process = PeerProcess(lambda event: self._hear(known, event), self._clock, self._options.log)
        known.append(self._process)
        limits = self._options
        self._send(
            StartSession(
                listen=listen,
                profile=self._profile,
                upload_limit=limits.upload_limit,
                download_limit=limits.download_limit,
                name=limits.name,
            )
        )
        self._allowed = frozenset()
        self._let_in()
        for member in self._members.values():
            self._add(member)

    def _stop(self, *, kill: bool = False) -> None:
        process, self._process = self._process, None
        if process:
            process.end(kill=kill)

    def _keep(self) -> None:
        while not self._ending.wait(TURN):
            process = self._process
            if process is None:
                continue
            if reason := process.trouble(self._options.memory):
                self._replace(reason)

    def _replace(self, reason: str) -> None:
        log.warning("the peer process %s; it is replaced", reason)
        self._stop(kill=True)
        with self._changed:
            now = self._clock()
            self._restarts = [*(at for at in self._restarts if now - at < RESTART_WINDOW), now]
            if len(self._restarts) > RESTARTS:
                self.failure = f"the peer process {reason}, as its {RESTARTS} predecessors did"
                for member in self._members.values():
                    member.failure = member.failure or self.failure
                self._changed.notify_all()
                return
            for member in self._members.values():
                member.restarted()
                member.reprove()
            self._start()

    def _add(self, member: SwarmTorrent) -> None:
        if member.kept_out:
            return
        self._send(*member.order())
        if member.named:
            self._connect(member, member.named)

    def _send(
        self,
        message: AddContent
        | AllowAddresses
        | ConnectPeers
        | FileMoved
        | RemoveContent
        | StartSession
        | TuneSession
        | PiecesWritten,
        attached: bytes = b"",
    ) -> None:
        if self._process:
            self._process.send(message, attached)

    def _connect(self, member: SwarmTorrent, peers: set[Endpoint]) -> None:
        places = tuple((peer.ip, peer.port) for peer in sorted(peers, key=str))
        self._send(ConnectPeers(address=member.address, peers=places))

    def _let_in(self) -> None:
        allowed = frozenset(peer.ip for member in self._members.values() for peer in member.named) - self._refused
        if allowed != self._allowed:
            self._allowed = allowed
            self._send(AllowAddresses(ips=tuple(sorted(allowed))))

    def _announce(self, *, knocked: bool = False) -> None:
        if self._meeting:
            self._meeting.look(knocked=knocked)

    def _named(self, member: SwarmTorrent, peers: set[Endpoint]) -> None:
        """The tracker named peers, and has said how large the swarm is."""
        self._renew(member)
        with self._changed:
            self.introduce(member, peers)
            self._choose_profile()

    def _renew(self, member: SwarmTorrent) -> None:
        """A certificate that nears its end is replaced; announcing does the same for announce keys."""
        if not member.admission.authority:
            return
        with contextlib.suppress(TrackerUnavailable, TrackerRefuses):  # then it ends, and with it our part in the swarm
            fresh = self._admission(member.address)
            if fresh != member.admission:
                member.admission = fresh
                self.readd(member)

    def _choose_profile(self) -> None:
        """Shallow queues as soon as one content has a crowd."""
        profile = choose_common_profile(member.crowd for member in self._members.values())
        if profile is not self._profile:
            self._profile = profile
            self.limit(self._options.upload_limit, self._options.download_limit)
