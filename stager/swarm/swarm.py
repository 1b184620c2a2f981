"""The node's part in all swarms: contents, peers and progress, maintained over failures of the peer process.

`Swarm` owns one peer process and replaces it when it crashes, hangs or uses too much memory, and gives the new one the
contents and peers of the old one. It announces every content to the tracker and admits only peers that the tracker named.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from catalog.image.address import Address
from catalog.swarm.tracker import Endpoint
from stager.content.leaf_set import LeafSet
from stager.content.piece_map import PieceMap
from stager.errors import PeerFailed, TrackerRefuses, TrackerUnavailable
from stager.peer import protocol
from stager.peer.engine_profiles import EngineProfile, choose_common_profile
from stager.peer.supervisor import PeerProcess
from stager.swarm.announcer import Announcer
from stager.swarm.grants import PUBLIC_CREDENTIALS, CredentialsProvider, public_credentials
from stager.swarm.torrent_state import SwarmTorrent
from stager.swarm.tracker_client import TrackerClient

log = logging.getLogger("partita.swarm")

TURN = 0.1
"""Seconds between checks of the peer process."""

START = 10.0
"""Seconds until a new peer process must listen."""

NEVER = float("inf")

RESTARTS = 5
RESTART_WINDOW = 30.0
"""After more than so many restarts within so many seconds the swarm is given up for HTTP, since the fault persists."""

MEMORY = 1 << 30
"""Bytes of memory that the peer process may use. It uses 40 MB, and 100 MB for blocks that wait for the disk."""


@dataclass(frozen=True)
class SwarmOptions:
    """A node's part in swarms.

    Attributes:
        listen: `ADDRESS:PORT` for peers; port 0 takes a free one. All addresses by default: peers are on other hosts, and
            only those that the tracker named may connect.
        upload_limit, download_limit: bytes per second over all contents; 0 means no limit.
        memory: bytes of memory that the peer process may use.
        log: file for the peer process's standard error; None for that of this process.
        name: our peer ID, 20 printable characters; empty for a new one at each connection.
    """

    listen: str = "0.0.0.0:0"
    upload_limit: int = 0
    download_limit: int = 0
    memory: int = MEMORY
    log: Path | None = None
    name: str = ""


class Swarm:
    """All contents that this node shares. Safe to use from several threads; a context manager that ends what it started.

    Args:
        tracker: the tracker's client; without one (None) peers are only added by `add_peers`.
        options: of the node's part in swarms.
        boot: identifies this boot of the machine, for journals.
        clock: seconds.
        credentials: gives the credentials for each content.
    """

    def __init__(
        self,
        tracker: TrackerClient | None,
        options: SwarmOptions,
        *,
        boot: str,
        clock: Callable[[], float] = time.monotonic,
        credentials: CredentialsProvider = public_credentials,
    ) -> None:
        self._options, self._boot, self._clock, self._credentials = options, boot, clock, credentials
        self._torrents: dict[Address, SwarmTorrent] = {}
        self._changed = threading.Condition(threading.RLock())
        self._allowed: frozenset[str] = frozenset()
        self._banned: set[str] = set()
        self._ending = threading.Event()
        self._profile = EngineProfile.BULK
        self._restarts: list[float] = []
        self._process: PeerProcess | None = None
        self.port = self.tls_port = 0
        self.failure: str | None = None
        self._supervisor = threading.Thread(target=self._supervise, name="swarm", daemon=True)
        self._announcer = tracker and Announcer(
            tracker, self.port_for, lambda: self.torrents, self._on_peers_named, clock
        )

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
        self._supervisor.start()
        if self._announcer:
            self._announcer.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """End the peer process, and tell the tracker that we leave if it answers."""
        self._ending.set()
        self._supervisor.join()
        self._stop()
        if self._announcer:
            self._announcer.stop()

    # Operations of the node

    def join(
        self, piece_map: PieceMap, path: Path, leaves: LeafSet | None = None, journal: Path | None = None
    ) -> SwarmTorrent:
        """Join a content's swarm.

        Args:
            piece_map: the content with its proved piece layer.
            path: its file.
            leaves: its verified leaves in the file; None for a complete file, which is trusted and not hashed again.
            journal: the file for the state of leaves while it is incomplete.

        A content without credentials that may be restricted never enters a swarm: the result has a failure.
        """
        if piece_map.layer is None:
            raise ValueError(
                f"{piece_map.address} has no proved piece layer; without one received pieces cannot be verified"
            )
        if leaves is None or leaves.complete:
            leaves = LeafSet(piece_map.address)
            leaves.add(0, piece_map.address.size)
        refusal, credentials = None, PUBLIC_CREDENTIALS
        try:
            credentials = self._credentials(piece_map.address)
        except (TrackerUnavailable, TrackerRefuses) as exc:
            refusal = str(exc)
        with self._changed:
            torrent = SwarmTorrent(
                piece_map, path, leaves, leaves.complete, self._clock(), journal, credentials=credentials
            )
            if piece_map.address in self._torrents:
                self._send(protocol.RemoveContent(address=piece_map.address))
            self._torrents[piece_map.address] = torrent
            if refusal is not None:
                log.info("%s", refusal)
                torrent.excluded, torrent.failure, torrent.announce_at = True, refusal, NEVER
            self._add(torrent)
        self._announce()
        return torrent

    def port_for(self, torrent: SwarmTorrent) -> int:
        """Return the port on which we listen for peers of a content."""
        return self.tls_port if torrent.credentials.authority else self.port

    def leave(self, address: Address) -> None:
        """Leave a content's swarm; the file stays."""
        with self._changed:
            torrent = self._torrents.pop(address, None)
            self._send(protocol.RemoveContent(address=address))
        if torrent and self._announcer:
            self._announcer.leave(torrent)

    def move_file(self, address: Address, path: Path) -> None:
        """Set the new path of a content's file; connections stay."""
        with self._changed:
            if torrent := self._torrents.get(address):
                torrent.path = path
                self._send(protocol.FileMoved(address=address, path=str(path)))

    def share_pieces(self, torrent: SwarmTorrent, pieces: list[int]) -> None:
        """Share pieces from another source that were verified and written into the file."""
        with self._changed:
            self._add_pieces(torrent, pieces)
            self._send(protocol.PiecesWritten(address=torrent.address, pieces=tuple(pieces)))

    def add_peers(self, torrent: SwarmTorrent, peers: set[Endpoint]) -> None:
        """Add peers to connect to and to admit."""
        with self._changed:
            new = peers - torrent.named
            torrent.named |= peers
            self._update_allowed()
            if new:
                self._connect(torrent, new)

    def rejoin(self, torrent: SwarmTorrent, *, forget: bool = False) -> None:
        """Leave the swarm and join it again, which drops bans and dead connections; `forget` drops the peers too."""
        with self._changed:
            if torrent.excluded:
                return
            self._send(protocol.RemoveContent(address=torrent.address))
            if forget:
                torrent.named = set()
                torrent.announce_at = 0.0
            torrent.reset_counters()
            torrent.recheck_fresh()
            self._add(torrent)
        self._announce()

    def set_limits(self, upload: int, download: int) -> None:
        """Limit the bytes per second that all contents together send and receive from now on; 0 means no limit."""
        with self._changed:
            self._options = replace(self._options, upload_limit=upload, download_limit=download)
            self._send(protocol.TuneSession(profile=self._profile, upload_limit=upload, download_limit=download))

    def wait(self, until: Callable[[], bool], seconds: float) -> bool:
        """Wait until a condition on contents holds; returns whether it does."""
        with self._changed:
            return self._changed.wait_for(until, seconds)

    @property
    def torrents(self) -> list[SwarmTorrent]:
        """All contents."""
        with self._changed:
            return list(self._torrents.values())

    @property
    def name(self) -> str:
        """Our peer ID."""
        return self._options.name

    @property
    def restarts(self) -> int:
        """How often the peer process was replaced recently."""
        return len(self._restarts)

    @property
    def peer_pid(self) -> int:
        """The peer process's PID; 0 if there is none."""
        return self._process.pid if self._process else 0

    # Events of the peer process

    def _on_event(self, process: list[PeerProcess], event: protocol.PeerEvent) -> None:
        with self._changed:
            if not process or process[0] is not self._process:
                return  # an event of a process that was replaced
            match event:
                case protocol.SessionReady(tls=True):
                    self.tls_port = event.port
                case protocol.SessionReady():
                    self.port = event.port
                case protocol.AddressBlocked():
                    self._announce(caller=True)
                case protocol.PeerFailure(address=None):
                    self.failure = event.reason
                    log.warning("peer process: %s", event.reason)
                case _:
                    if torrent := self._torrents.get(event.address):  # type: ignore[union-attr,arg-type]
                        self._on_content_event(torrent, event)
            self._changed.notify_all()

    def _on_content_event(self, torrent: SwarmTorrent, event: protocol.PeerEvent) -> None:
        match event:
            case protocol.PiecesReceived() if torrent.failure is None:
                self._add_pieces(torrent, event.pieces)
            case protocol.ContentProgress():
                torrent.progress = event
                torrent.update_journal(self._boot, self._clock())
            case protocol.ContentComplete():
                torrent.mark_complete()
                self._announce()
            case protocol.CorruptPiece():
                self._on_corrupt_piece(torrent, event)
            case protocol.PeerBanned():
                torrent.suspects.add(event.peer)
            case protocol.PeerFailure() if torrent.failure is None:  # one cause may lead to several failures
                torrent.failure = event.reason
                log.warning("%s: %s", torrent.address, event.reason)
                # Pieces are reported when they are verified, which may be before they are written.
                self._send(protocol.RemoveContent(address=torrent.address))
                torrent.recheck_fresh()

    def _on_corrupt_piece(self, torrent: SwarmTorrent, event: protocol.CorruptPiece) -> None:
        """Refuse the address of a peer that certainly sent a wrong piece, from any port."""
        if torrent.record_corrupt_piece(event) and event.culprit:
            log.warning("%s: peer %s sent piece %d wrong; peer banned", torrent.address, event.culprit, event.piece)
            self._banned.add(event.culprit.rpartition(":")[0].strip("[]"))
            self._update_allowed()

    def _add_pieces(self, torrent: SwarmTorrent, pieces: list[int] | tuple[int, ...]) -> None:
        new = [piece for piece in pieces if torrent.leaves.add_piece(piece)]
        if new:
            torrent.progress_at = self._clock()
            torrent.fresh.update(new)
        self._changed.notify_all()

    # The peer process and its supervision

    def _start(self) -> None:
        host, _, port = self._options.listen.rpartition(":")
        # Peers know our previous ports from the tracker. The second one is for TLS, which the `s` means.
        plain = self.port or int(port)
        listen = f"{host}:{plain},{host}:{self.tls_port or (plain and plain + 1)}s"
        known: list[PeerProcess] = []
        self._process = PeerProcess(lambda event: self._on_event(known, event), self._clock, self._options.log)
        known.append(self._process)
        upload, download, name = self._options.upload_limit, self._options.download_limit, self._options.name
        session, profile = protocol.StartSession, self._profile
        self._send(session(listen=listen, name=name, profile=profile, upload_limit=upload, download_limit=download))
        self._allowed = frozenset()
        self._update_allowed()
        for torrent in self._torrents.values():
            self._add(torrent)

    def _stop(self, *, kill: bool = False) -> None:
        process, self._process = self._process, None
        if process:
            process.stop(kill=kill)

    def _supervise(self) -> None:
        while not self._ending.wait(TURN):
            process = self._process
            if process is None:
                continue
            if reason := process.failure_reason(self._options.memory):
                self._replace(reason)

    def _replace(self, reason: str) -> None:
        log.warning("the peer process %s; restarting it", reason)
        self._stop(kill=True)
        with self._changed:
            now = self._clock()
            self._restarts = [*(at for at in self._restarts if now - at < RESTART_WINDOW), now]
            if len(self._restarts) > RESTARTS:
                self.failure = f"the peer process {reason}, after {RESTARTS} restarts within {RESTART_WINDOW:.0f} s"
                for torrent in self._torrents.values():
                    torrent.failure = torrent.failure or self.failure
                self._changed.notify_all()
                return
            for torrent in self._torrents.values():
                torrent.reset_counters()
                torrent.recheck_fresh()
            self._start()

    def _add(self, torrent: SwarmTorrent) -> None:
        if torrent.excluded:
            return
        self._send(*torrent.add_command())
        if torrent.named:
            self._connect(torrent, torrent.named)

    def _send(self, message: protocol.PeerCommand, attached: bytes = b"") -> None:
        if self._process:
            self._process.send(message, attached)

    def _connect(self, torrent: SwarmTorrent, peers: set[Endpoint]) -> None:
        places = tuple((peer.ip, peer.port) for peer in sorted(peers, key=str))
        self._send(protocol.ConnectPeers(address=torrent.address, peers=places))

    def _update_allowed(self) -> None:
        allowed = frozenset(peer.ip for torrent in self._torrents.values() for peer in torrent.named) - self._banned
        if allowed != self._allowed:
            self._allowed = allowed
            self._send(protocol.AllowAddresses(ips=tuple(sorted(allowed))))

    def _announce(self, *, caller: bool = False) -> None:
        if self._announcer:
            self._announcer.wake(caller=caller)

    def _on_peers_named(self, torrent: SwarmTorrent, peers: set[Endpoint]) -> None:
        """Add the peers that the tracker named, and adapt the profile to the size of the swarm."""
        self._renew(torrent)
        with self._changed:
            self.add_peers(torrent, peers)
            # Queues are shallow as soon as one content has a crowd.
            profile = choose_common_profile(torrent.crowd for torrent in self._torrents.values())
            if profile is not self._profile:
                self._profile = profile
                self.set_limits(self._options.upload_limit, self._options.download_limit)

    def _renew(self, torrent: SwarmTorrent) -> None:
        """Replace a certificate that is about to expire; announcing does the same for announce keys."""
        if not torrent.credentials.authority:
            return
        with contextlib.suppress(TrackerUnavailable, TrackerRefuses):  # then the certificate expires, and ends our part
            fresh = self._credentials(torrent.address)
            if fresh != torrent.credentials:
                torrent.credentials = fresh
                self.rejoin(torrent)
