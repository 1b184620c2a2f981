"""One content that this node shares, as it stands: a record that the swarm keeps and everybody may read."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from catalog.image.address import LEAF, Address
from catalog.swarm.tracker import AnnounceEvent as Announced
from catalog.swarm.tracker import Endpoint
from stager.content.leaf_set import LeafSet
from stager.content.peer_stats import PeerStats, idle_peer_stats, merge_peer_stats
from stager.content.piece_map import PieceMap
from stager.fetch.resume import verified_pieces, write_journal
from stager.peer.protocol import AddContent, ContentProgress, CorruptPiece
from stager.swarm.grants import PUBLIC_CREDENTIALS, SwarmCredentials

JOURNAL = 0.5
"""Seconds between entries in a journal: what a node that is killed fetches again, at most."""


@dataclass
class SwarmTorrent:
    """One content in its swarm. Fields change under the swarm's lock.

    Attributes:
        leaves: what is here and right.
        complete: all of it, written, offered.
        failure: why the peer process gave it up, or None.
        named: peers that the tracker named.
        progress_at: when the last right piece came.
        from_peers, wasted, sent: payload bytes so far, over all peer processes.
        poisoners: peers that were found to send wrong bytes, as ADDRESS:PORT.
        suspects: peers that had a part in wrong pieces.
        crowd: (members with everything, without), as the tracker said last.
        announce_at, announced, unanswered: when to announce next, what is to be said then, how often nobody answered.
        admission: what opens the swarm to us; with an authority the swarm is a restricted one, over TLS.
        kept_out: we have no pass, so it is in no swarm.
        fresh: pieces that came since the peer process was told what is here.
    """

    guide: PieceMap
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
    admission: SwarmCredentials = PUBLIC_CREDENTIALS
    kept_out: bool = False
    _before: tuple[int, int, int] = (0, 0, 0)
    _fed_before: tuple[PeerStats, ...] = ()
    _journalled: float = 0.0
    fresh: set[int] = field(default_factory=set)

    @property
    def address(self) -> Address:
        """Which content."""
        return self.guide.address

    def _total(self, index: int) -> int:
        now = (self.progress.from_peers, self.progress.wasted, self.progress.sent) if self.progress else (0, 0, 0)
        return self._before[index] + now[index]

    @property
    def from_peers(self) -> int:
        """Payload bytes that came from peers, wasted ones included."""
        return self._total(0)

    @property
    def wasted(self) -> int:
        """Of these, what came twice or was wrong."""
        return self._total(1)

    @property
    def sent(self) -> int:
        """Payload bytes that went to peers."""
        return self._total(2)

    @property
    def feeders(self) -> tuple[PeerStats, ...]:
        """From whom how much of `from_peers` came, the most first."""
        return merge_peer_stats(self._fed_before, self.progress.feeders if self.progress else ())

    @property
    def connected(self) -> int:
        """Peers connected now."""
        return self.progress.peers if self.progress else 0

    def restarted(self) -> None:
        """The session's counters begin again."""
        self._fed_before = idle_peer_stats(self.feeders)
        self._before, self.progress = (self._total(0), self._total(1), self._total(2)), None

    def order(self) -> tuple[AddContent, bytes]:
        """What a peer process is told so that it takes part, and what is attached to that."""
        layer = self.guide.layer or b""
        if not self.complete and self.leaves.complete:
            self.complete, self.announced, self.announce_at = True, Announced.COMPLETED, 0.0
        order = AddContent(
            address=self.address,
            path=str(self.path),
            layer=len(layer),
            complete=self.complete,
            authority=self.admission.authority.decode("ascii"),
            certificate=self.admission.certificate,
            key=self.admission.key,
        )
        return order, layer if self.complete else layer + self.leaves.bits()

    def completed(self) -> None:
        """Everything is here and written, which is to be announced."""
        self.leaves.add(0, self.address.size)
        self.complete, self.announced, self.announce_at = True, Announced.COMPLETED, 0.0
        self.fresh.clear()

    def reprove(self) -> None:
        """A piece may have been said to be here before it was on its way to the file: look again which are."""
        if self.complete:
            return
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            needed = set(self.guide.needed)
            here = [piece for piece in self.fresh if piece in needed]
            for piece in set(here) - set(verified_pieces(self.guide, descriptor, here)):
                self.leaves.drop_piece(piece)
        finally:
            os.close(descriptor)

    def poisoned(self, event: CorruptPiece) -> bool:
        """A piece was wrong, and is missing again; tells whether it is certain of a peer, for the first time, that it sent it."""
        self.suspects |= set(event.suspects)
        self.leaves.drop_piece(event.piece)
        self.fresh.discard(event.piece)
        new = event.culprit is not None and event.culprit not in self.poisoners
        if event.culprit is not None:
            self.poisoners.add(event.culprit)
        return new

    def keep_journal(self, boot: str, now: float) -> None:
        """Write down which leaves are here, at most twice a second."""
        if self.journal is None or self.complete or now - self._journalled < JOURNAL:
            return
        self._journalled = now
        leaves = LeafSet.of_bits(self.address, self.leaves.bits())
        for piece, numbers in self.progress.partial if self.progress else ():
            start = self.guide.bounds(piece)[0]
            for number in numbers:
                leaves.add(start + number * LEAF, start + (number + 1) * LEAF)
        write_journal(self.journal, leaves, boot)
