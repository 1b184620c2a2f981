"""The state of one content that this node shares: kept by the swarm, read by other modules."""

from dataclasses import dataclass, field
from pathlib import Path

from catalog.image.address import LEAF, Address
from catalog.swarm.tracker import AnnounceEvent as Announced
from catalog.swarm.tracker import Endpoint
from signer.runtime.files import opened
from stager.content.leaf_set import LeafSet
from stager.content.peer_stats import PeerStats, idle_peer_stats, merge_peer_stats
from stager.content.piece_map import PieceMap
from stager.fetch.resume import verified_pieces, write_journal
from stager.peer.protocol import AddContent, ContentProgress, CorruptPiece
from stager.swarm.grants import PUBLIC_CREDENTIALS, SwarmCredentials

JOURNAL = 0.5
"""Seconds between writes of a journal: at most the blocks of that time are fetched again after a crash."""


@dataclass
class SwarmTorrent:
    """One content in its swarm. Fields change under the swarm's lock.

    Attributes:
        leaves: the verified leaves.
        complete: whether all leaves are verified, written and offered.
        failure: why the peer process gave it up, or None.
        named: peers that the tracker named.
        progress_at: when the last correct piece arrived.
        from_peers, wasted, sent: payload bytes so far, over all peer processes.
        poisoners: peers that are known to have sent wrong bytes, as ADDRESS:PORT.
        suspects: peers that sent parts of wrong pieces.
        crowd: (complete, incomplete) members, as last reported by the tracker.
        announce_at, announced, unanswered: when to announce next, the event to announce then, announcements without an answer.
        credentials: our credentials; with an authority the swarm is restricted, over TLS.
        excluded: whether it is in no swarm, because we have no credentials.
        fresh: pieces received since the content was added to the peer process.
    """

    piece_map: PieceMap
    path: Path
    leaves: LeafSet
    complete: bool
    progress_at: float
    journal: Path | None = None
    failure: str | None = None
    named: set[Endpoint] = field(default_factory=set)
    progress: ContentProgress | None = None
    poisoners: set[str] = field(default_factory=set)
    suspects: set[str] = field(default_factory=set)
    crowd: tuple[int, int] = (0, 0)
    announce_at: float = 0.0
    announced: Announced | None = Announced.STARTED
    unanswered: int = 0
    credentials: SwarmCredentials = PUBLIC_CREDENTIALS
    excluded: bool = False
    _before: tuple[int, int, int] = (0, 0, 0)
    _fed_before: tuple[PeerStats, ...] = ()
    _journalled: float = 0.0
    fresh: set[int] = field(default_factory=set)

    @property
    def address(self) -> Address:
        """The content's address."""
        return self.piece_map.address

    @property
    def from_peers(self) -> int:
        """Payload bytes received from peers, wasted ones included."""
        return self._before[0] + (self.progress.from_peers if self.progress else 0)

    @property
    def wasted(self) -> int:
        """Of these, bytes that were received twice or wrong."""
        return self._before[1] + (self.progress.wasted if self.progress else 0)

    @property
    def sent(self) -> int:
        """Payload bytes sent to peers."""
        return self._before[2] + (self.progress.sent if self.progress else 0)

    @property
    def feeders(self) -> tuple[PeerStats, ...]:
        """`from_peers` by peer, the most first."""
        return merge_peer_stats(self._fed_before, self.progress.feeders if self.progress else ())

    @property
    def connected(self) -> int:
        """Peers connected now."""
        return self.progress.peers if self.progress else 0

    def reset_counters(self) -> None:
        """Keep the totals before the counters of the peer process start again."""
        self._fed_before = idle_peer_stats(self.feeders)
        self._before, self.progress = (self.from_peers, self.wasted, self.sent), None

    def add_command(self) -> tuple[AddContent, bytes]:
        """Make the command that adds it to a peer process, and its attachment."""
        layer = self.piece_map.layer or b""
        if not self.complete and self.leaves.complete:
            self.complete, self.announced, self.announce_at = True, Announced.COMPLETED, 0.0
        command = AddContent(
            address=self.address,
            path=str(self.path),
            layer=len(layer),
            complete=self.complete,
            authority=self.credentials.authority.decode("ascii"),
            certificate=self.credentials.certificate,
            key=self.credentials.key,
        )
        return command, layer if self.complete else layer + self.leaves.bits()

    def mark_complete(self) -> None:
        """Mark it as complete and written, which is to be announced."""
        self.leaves.add(0, self.address.size)
        self.complete, self.announced, self.announce_at = True, Announced.COMPLETED, 0.0
        self.fresh.clear()

    def recheck_fresh(self) -> None:
        """Verify fresh pieces again: one may have been reported before it was written to the file."""
        if self.complete:
            return
        with opened(self.path) as descriptor:
            needed = set(self.piece_map.needed)
            here = [piece for piece in self.fresh if piece in needed]
            for piece in set(here) - set(verified_pieces(self.piece_map, descriptor, here)):
                self.leaves.drop_piece(piece)

    def record_corrupt_piece(self, event: CorruptPiece) -> bool:
        """Record a wrong piece, which is missing again; returns whether a peer is newly known to have sent wrong bytes."""
        self.suspects |= set(event.suspects)
        self.leaves.drop_piece(event.piece)
        self.fresh.discard(event.piece)
        new = event.culprit is not None and event.culprit not in self.poisoners
        if event.culprit is not None:
            self.poisoners.add(event.culprit)
        return new

    def update_journal(self, boot: str, now: float) -> None:
        """Write the leaves to the journal, at most twice a second."""
        if self.journal is None or self.complete or now - self._journalled < JOURNAL:
            return
        self._journalled = now
        leaves = LeafSet.of_bits(self.address, self.leaves.bits())
        for piece, numbers in self.progress.partial if self.progress else ():
            start = self.piece_map.bounds(piece)[0]
            for number in numbers:
                leaves.add(start + number * LEAF, start + (number + 1) * LEAF)
        write_journal(self.journal, leaves, boot)
