"""The peer process: libtorrent alone with its session, ordered about over standard input (`stager.peer.protocol`).

It is a process of its own because libtorrent can take Python down with it, and because one session is one network
thread. It believes nothing: which file has what is told by the node, who may connect is told by the tracker through the
node, and every piece is checked against the piece layer, which the node has proved against the signed root. It makes no
announces, asks no metadata of peers and tells none about others. It ends with its standard input.

The only module that imports libtorrent. Alerts are copied field by field as they are popped: libtorrent frees them with
the next pop, and touching one then ends the process.
"""

import contextlib
import os
import selectors
import socket
import sys
import time
from pathlib import Path
from typing import Any, cast

import libtorrent as lt

from catalog.image.address import LEAF, Address, piece_length
from catalog.swarm.torrent import info_hash, unchecked_torrent
from stager.content.leaf_set import LeafSet
from stager.content.peer_stats import idle_peer_stats
from stager.peer.engine_profiles import session_settings
from stager.peer.protocol import (
    AddContent,
    AddressBlocked,
    AllowAddresses,
    ConnectPeers,
    ContentComplete,
    ContentProgress,
    CorruptPiece,
    FileMoved,
    FrameReader,
    Heartbeat,
    PeerBanned,
    PeerCommand,
    PeerEvent,
    PeerFailure,
    PiecesReceived,
    PiecesWritten,
    QuitSession,
    RemoveContent,
    SessionReady,
    StartSession,
    TuneSession,
    encode_frame,
    parse_command,
)
from stager.peer.torrent import PeerTorrent, add_pieces, endpoint_text, unfinished_pieces

BEAT = 0.25
"""Seconds between signs of life, which are also when progress is looked at."""

FLUSH = 0.5
"""Seconds between the moments at which libtorrent must write what has come. It would keep up to 100 MB in memory
otherwise, all of which a node that is killed would fetch again."""

LOOK = 0.5
LOOK_SHARE = 0.01
"""Seconds between looks at what is on disk of unfinished pieces; and more, where looking takes over this share of them."""

GATHER = 0.04
"""Seconds for which what libtorrent says is gathered before it is heard, so that a busy swarm does not keep Python busy."""

FFDHE2048 = """-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""
"""The group of RFC 7919, appendix A.1. libtorrent wants one for TLS, of 2048 bits at least; with P-256 it is not used."""

_IP_FILTER = 0
"""`peer_blocked_alert::ip_filter`."""

_EVERYBODY = (("0.0.0.0", "255.255.255.255"), ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))  # noqa: S104 - a range


class PeerSession:
    """The session and what it is doing. `events` collects what is to be said."""

    def __init__(self) -> None:
        self.events: list[PeerEvent] = []
        self._session: Any = None
        self._mask = 0
        self._torrents: dict[bytes, tuple[Address, PeerTorrent]] = {}
        self._hashes: dict[Address, bytes] = {}
        self.alerts_waiting, self._alert_end = socket.socketpair()
        self.alerts_waiting.setblocking(False)
        self._alert_end.setblocking(False)

    def obey(self, order: PeerCommand, attached: bytes) -> None:
        """Carry out one command."""
        match order:
            case StartSession():
                self._start(order)
            case AddContent():
                self._add(order, attached)
            case AllowAddresses():
                self._session.set_ip_filter(_only(order.ips))
            case TuneSession():
                tuned = session_settings(order.profile, "", order.upload_limit, order.download_limit)
                self._session.apply_settings({name: tuned[name] for name in tuned if name != "listen_interfaces"})
            case QuitSession():
                raise SystemExit(0)
            case ConnectPeers() | PiecesWritten() | FileMoved() | RemoveContent():
                entry = self._torrents.get(self._hashes.get(order.address, b""))
                if entry is not None:
                    self._obey_for(order, entry[1])

    def _obey_for(self, order: ConnectPeers | PiecesWritten | FileMoved | RemoveContent, torrent: PeerTorrent) -> None:
        """Carry out a command about one content that is in the session."""
        match order:
            case ConnectPeers():
                for peer in order.peers:
                    torrent.handle.connect_peer(peer)
            case PiecesWritten():
                try:
                    add_pieces(torrent, order)
                except OSError as exc:
                    self.events.append(PeerFailure(address=order.address, reason=f"{torrent.path}: {exc.strerror}"))
            case FileMoved():
                torrent.path = Path(order.path)
                torrent.handle.rename_file(0, order.path)
            case RemoveContent():
                del self._torrents[self._hashes.pop(order.address)]
                self._session.remove_torrent(torrent.handle)

    def _start(self, order: StartSession) -> None:
        chosen = session_settings(order.profile, order.listen, order.upload_limit, order.download_limit, order.name)
        category = lt.alert.category_t
        self._mask = chosen["alert_mask"] = int(
            category.error_notification
            | category.status_notification
            | category.storage_notification
            | category.piece_progress_notification
            | category.ip_block_notification
            | category.peer_notification
        )
        # No default plugins: neither peer exchange nor metadata exchange; of the three only the one that finds poisoners.
        self._session = lt.session(cast(Any, chosen), flags=0)
        self._session.add_extension("smart_ban")
        self._session.set_alert_fd(self._alert_end.fileno())
        self._session.set_ip_filter(_only(()))
        # By default peers on the local network are outside all limits.
        everybody = lt.ip_filter()
        for first, last in _EVERYBODY:
            everybody.add_rule(first, last, 1 << self._session.global_peer_class_id)
        self._session.set_peer_class_filter(everybody)

    def _add(self, order: AddContent, attached: bytes) -> None:
        authority = order.authority.encode()
        key = self._hashes[order.address] = info_hash(order.address, authority)
        layer, bits = attached[: order.layer], attached[order.layer :]
        params = lt.load_torrent_buffer(unchecked_torrent(order.address, layer, authority=authority))
        path = Path(order.path)
        params.save_path, params.renamed_files = str(path.parent), {0: path.name}
        params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
        params.flags |= lt.torrent_flags.no_verify_files | lt.torrent_flags.disable_pex
        if order.complete:
            # As fast as `have_pieces`, and without an alert for each piece; `verified` spares hashing at the first upload.
            params.flags |= lt.torrent_flags.seed_mode
            params.verified_pieces = [True] * -(-order.address.size // piece_length(order.address.size))
        else:
            params.have_pieces, params.unfinished_pieces = LeafSet.of_bits(order.address, bits).as_pieces()
        handle = self._session.add_torrent(params)
        if authority:
            handle.set_ssl_certificate_buffer(order.certificate, order.key, FFDHE2048)
        self._torrents[key] = (order.address, PeerTorrent(handle, path, order.complete, fed=order.complete))

    def listen(self) -> None:
        """Copy what libtorrent has to say."""
        with contextlib.suppress(BlockingIOError):
            while self.alerts_waiting.recv(4096):
                pass
        for alert in self._session.pop_alerts():
            self._hear(alert)
        for address, torrent in self._torrents.values():
            if torrent.fresh:
                torrent.glance(time.monotonic())
            self._tell_fresh(address, torrent)

    def _tell_fresh(self, address: Address, torrent: PeerTorrent) -> None:
        if torrent.fresh:
            self.events.append(PiecesReceived(address=address, pieces=tuple(torrent.fresh)))
            torrent.fresh = []

    def _hear(self, alert: Any) -> None:
        match alert:
            case lt.listen_succeeded_alert():
                if alert.socket_type in (lt.socket_type_t.tcp, lt.socket_type_t.tcp_ssl):
                    self.events.append(SessionReady(port=alert.port, tls=alert.socket_type == lt.socket_type_t.tcp_ssl))
            case lt.listen_failed_alert():
                self.events.append(PeerFailure(reason=f"cannot listen: {alert.message()}"))
            case lt.peer_blocked_alert():
                if int(alert.reason) == _IP_FILTER:
                    self.events.append(AddressBlocked(ip=alert.endpoint[0]))
            case lt.state_update_alert():
                for status in alert.status:
                    self._progress(status)
            case lt.alerts_dropped_alert():
                self._recount()
            case lt.torrent_alert():
                self._hear_of(alert)

    def _recount(self) -> None:
        """There was more to say than libtorrent keeps: look for ourselves what is here."""
        for _, torrent in self._torrents.values():
            if not torrent.complete:
                status = torrent.handle.status(lt.torrent_handle.query_pieces)
                torrent.fresh += [piece for piece, here in enumerate(status.pieces) if here]
                # An answer may have been among what was dropped: ask again, and wait for this answer alone.
                torrent.flushing, torrent.finished = 0, status.is_seeding
                torrent.flush()

    def _hear_of(self, alert: Any) -> None:
        """An alert that is about one content."""
        entry = self._torrents.get(self._key(alert.handle))
        if entry is None:
            return
        address, torrent = entry
        match alert:
            case lt.block_finished_alert():
                blocks = torrent.sources.setdefault(int(alert.piece_index), {})
                blocks[int(alert.block_index)] = endpoint_text(alert.endpoint)
            case lt.piece_finished_alert():
                torrent.fresh.append(int(alert.piece_index))
                torrent.sources.pop(int(alert.piece_index), None)
            case lt.torrent_finished_alert():
                torrent.finished = True
                torrent.flush()
            case lt.cache_flushed_alert():
                torrent.flushing = max(0, torrent.flushing - 1)
                if torrent.finished and not (torrent.flushing or torrent.complete or torrent.broken):
                    torrent.complete = True
                    self._tell_fresh(address, torrent)
                    self._progress(torrent.handle.status(lt.torrent_handle.query_accurate_download_counters))
                    self.events.append(ContentComplete(address=address))
            case lt.hash_failed_alert():
                self._poisoned(address, torrent, int(alert.piece_index))
            case lt.peer_ban_alert():
                self.events.append(PeerBanned(address=address, peer=endpoint_text(alert.endpoint)))
            case lt.file_error_alert() | lt.torrent_error_alert():
                # What is right in memory may be missing on disk from now on; libtorrent does not tell.
                torrent.broken = True
                self.events.append(PeerFailure(address=address, reason=alert.message()))

    def _poisoned(self, address: Address, torrent: PeerTorrent, piece: int) -> None:
        """A piece was wrong. Who did it is certain only when one peer alone sent all of it.

        libtorrent bans on weaker evidence, and now and then the wrong peer. So from the first wrong piece on we take note
        of who sends which block, and judge for ourselves; before that it would cost more than it tells.
        """
        if not self._mask & int(lt.alert.category_t.block_progress_notification):
            self._mask |= int(lt.alert.category_t.block_progress_notification)
            self._session.apply_settings({"alert_mask": self._mask})
        sources = torrent.sources.pop(piece, {})
        length, size = piece_length(address.size), address.size
        blocks = -(-min(length, size - piece * length) // LEAF)
        alone = set(sources.values())
        culprit = alone.pop() if len(sources) == blocks and len(alone) == 1 else None
        suspects = {endpoint_text(peer.ip) for peer in torrent.handle.get_peer_info() if peer.num_hashfails}
        suspects |= set(sources.values())
        self.events.append(
            CorruptPiece(address=address, piece=piece, culprit=culprit, suspects=tuple(sorted(suspects)))
        )

    def beat(self) -> None:
        """Show life, and ask for what has changed."""
        self.events.append(Heartbeat())
        if self._session is not None:
            self._session.post_torrent_updates(lt.torrent_handle.query_accurate_download_counters)

    def _progress(self, status: Any) -> None:
        entry = self._torrents.get(self._key(status.handle))
        if entry is None:
            return
        address, torrent = entry
        began = time.monotonic()
        if began >= torrent.flush_at and not torrent.finished:
            torrent.flush_at = began + FLUSH
            torrent.flush()
        if torrent.complete and not torrent.fed:
            torrent.feeders, torrent.fed = idle_peer_stats(torrent.fed_by(status)), True
        if began >= torrent.look_at and not torrent.complete:
            torrent.partial = tuple(unfinished_pieces(torrent.handle))
            torrent.feeders = torrent.fed_by(status)
            torrent.look_at = began + max(LOOK, (time.monotonic() - began) / LOOK_SHARE)
        now = ContentProgress(
            address=address,
            partial=torrent.partial,
            from_peers=status.total_payload_download,
            wasted=status.total_redundant_bytes + status.total_failed_bytes,
            sent=status.total_payload_upload,
            down=status.download_payload_rate,
            up=status.upload_payload_rate,
            peers=status.num_peers,
            seeds=status.num_seeds,
            feeders=torrent.feeders,
        )
        if now != torrent.said:
            torrent.said = now
            self.events.append(now)

    @staticmethod
    def _key(handle: Any) -> bytes:
        try:
            return bytes(handle.info_hashes().v2.to_bytes())
        except RuntimeError:  # it was removed while its alert waited
            return b""


def _only(ips: tuple[str, ...]) -> Any:
    """A filter that lets through these addresses and nothing else."""
    rules = lt.ip_filter()
    for first, last in _EVERYBODY:
        rules.add_rule(first, last, 1)
    for ip in ips:
        rules.add_rule(ip, ip, 0)
    return rules


def main() -> None:
    """Obey until standard input ends."""
    peer, frames = PeerSession(), FrameReader()
    waiting = selectors.DefaultSelector()
    waiting.register(0, selectors.EVENT_READ)
    waiting.register(peer.alerts_waiting, selectors.EVENT_READ)
    beat = time.monotonic()
    heard = never = float("inf")
    try:
        while True:
            for key, _ in waiting.select(max(0.0, min(beat, heard) - time.monotonic())):
                if key.fd != 0:
                    waiting.unregister(peer.alerts_waiting)
                    heard = time.monotonic() + GATHER
                    continue
                data = os.read(0, 1 << 20)
                if not data:
                    # The node is gone: so are we, at once and without a farewell to libtorrent's threads.
                    os._exit(0)
                for line, attached in frames.feed(data):
                    peer.obey(parse_command(line), attached)
            now = time.monotonic()
            if now >= heard:
                heard = never
                peer.listen()
                waiting.register(peer.alerts_waiting, selectors.EVENT_READ)
            if now >= beat:
                beat = now + BEAT
                peer.beat()
            said, peer.events = b"".join(encode_frame(event) for event in peer.events), []
            while said:
                said = said[os.write(1, said) :]
    except BrokenPipeError:
        os._exit(0)


if __name__ == "__main__":
    main()
    sys.exit(0)
