"""The peer process: a libtorrent session that is controlled over standard input (`stager.peer.protocol`).

It is a process of its own because a fault of libtorrent can end Python, and because one session is one network thread. It
trusts no peer: the node says which leaves a file has, the tracker says, through the node, which peers may connect, and
every piece is checked against the piece layer, which the node has proved against the signed root. It does not announce,
requests no metadata from peers and does not tell peers about others. It ends with its standard input.

The only module that imports libtorrent. Alerts are copied field by field as they are popped: libtorrent frees them with
the next pop, and accessing one then ends the process.
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
from stager.peer import protocol
from stager.peer.engine_profiles import session_settings
from stager.peer.torrent import PeerTorrent, add_pieces, endpoint_text, unfinished_pieces

BEAT = 0.25
"""Seconds between heartbeats, at which progress is queried too."""

FLUSH = 0.5
"""Seconds between flushes of received blocks to the disk. libtorrent would keep up to 100 MB in memory otherwise, which a
node would have to fetch again after a crash."""

LOOK = 0.5
LOOK_SHARE = 0.01
"""Seconds between queries of the blocks on disk of unfinished pieces; longer if a query takes more than this share of the
time."""

GATHER = 0.04
"""Seconds for which libtorrent's alerts are collected before they are read, so that a busy swarm does not keep Python
busy."""

FFDHE2048 = """-----BEGIN DH PARAMETERS-----
MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz
+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a
87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7
YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi
7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD
ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==
-----END DH PARAMETERS-----
"""
"""The group of RFC 7919, appendix A.1. libtorrent requires one for TLS, of 2048 bits at least; with P-256 it is not used."""

_IP_FILTER = 0
"""`peer_blocked_alert::ip_filter`."""

_ALL_ADDRESSES = (("0.0.0.0", "255.255.255.255"), ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))  # noqa: S104 - a range


class PeerSession:
    """The libtorrent session and its contents. `events` collects the events to be sent."""

    def __init__(self) -> None:
        self.events: list[protocol.PeerEvent] = []
        self._session: Any = None
        self._mask = 0
        self._torrents: dict[bytes, tuple[Address, PeerTorrent]] = {}
        self._hashes: dict[Address, bytes] = {}
        self.alerts_waiting, self._alert_end = socket.socketpair()
        self.alerts_waiting.setblocking(False)
        self._alert_end.setblocking(False)

    def execute(self, command: protocol.PeerCommand, attached: bytes) -> None:
        """Execute one command."""
        match command:
            case protocol.StartSession():
                self._start(command)
            case protocol.AddContent():
                self._add(command, attached)
            case protocol.AllowAddresses():
                self._session.set_ip_filter(_allow_only(command.ips))
            case protocol.TuneSession():
                tuned = session_settings(command.profile, "", command.upload_limit, command.download_limit)
                self._session.apply_settings({name: tuned[name] for name in tuned if name != "listen_interfaces"})
            case protocol.QuitSession():
                raise SystemExit(0)
            case protocol.ConnectPeers() | protocol.PiecesWritten() | protocol.FileMoved() | protocol.RemoveContent():
                entry = self._torrents.get(self._hashes.get(command.address, b""))
                if entry is not None:
                    self._execute_for(command, entry[1])

    def _execute_for(self, command: protocol.ContentCommand, torrent: PeerTorrent) -> None:
        """Execute a command about one content of the session."""
        match command:
            case protocol.ConnectPeers():
                for peer in command.peers:
                    torrent.handle.connect_peer(peer)
            case protocol.PiecesWritten():
                try:
                    add_pieces(torrent, command)
                except OSError as exc:
                    self.events.append(
                        protocol.PeerFailure(address=command.address, reason=f"{torrent.path}: {exc.strerror}")
                    )
            case protocol.FileMoved():
                torrent.path = Path(command.path)
                torrent.handle.rename_file(0, command.path)
            case protocol.RemoveContent():
                del self._torrents[self._hashes.pop(command.address)]
                self._session.remove_torrent(torrent.handle)

    def _start(self, command: protocol.StartSession) -> None:
        chosen = session_settings(
            command.profile, command.listen, command.upload_limit, command.download_limit, command.name
        )
        category = lt.alert.category_t
        self._mask = chosen["alert_mask"] = int(
            category.error_notification
            | category.status_notification
            | category.storage_notification
            | category.piece_progress_notification
            | category.ip_block_notification
            | category.peer_notification
        )
        # No default plugins, that is no peer exchange and no metadata exchange; only the one that finds corrupting peers.
        self._session = lt.session(cast(Any, chosen), flags=0)
        self._session.add_extension("smart_ban")
        self._session.set_alert_fd(self._alert_end.fileno())
        self._session.set_ip_filter(_allow_only(()))
        # By default peers on the local network are outside all limits.
        everybody = lt.ip_filter()
        for first, last in _ALL_ADDRESSES:
            everybody.add_rule(first, last, 1 << self._session.global_peer_class_id)
        self._session.set_peer_class_filter(everybody)

    def _add(self, command: protocol.AddContent, attached: bytes) -> None:
        authority = command.authority.encode()
        key = self._hashes[command.address] = info_hash(command.address, authority)
        layer, bits = attached[: command.layer], attached[command.layer :]
        params = lt.load_torrent_buffer(unchecked_torrent(command.address, layer, authority=authority))
        path = Path(command.path)
        params.save_path, params.renamed_files = str(path.parent), {0: path.name}
        params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
        params.flags |= lt.torrent_flags.no_verify_files | lt.torrent_flags.disable_pex
        if command.complete:
            # As fast as `have_pieces`, without an alert for each piece; `verified_pieces` avoids hashing at the first upload.
            params.flags |= lt.torrent_flags.seed_mode
            params.verified_pieces = [True] * -(-command.address.size // piece_length(command.address.size))
        else:
            params.have_pieces, params.unfinished_pieces = LeafSet.of_bits(command.address, bits).as_pieces()
        handle = self._session.add_torrent(params)
        if authority:
            handle.set_ssl_certificate_buffer(command.certificate, command.key, FFDHE2048)
        self._torrents[key] = (command.address, PeerTorrent(handle, path, command.complete, fed=command.complete))

    def read_alerts(self) -> None:
        """Read and handle libtorrent's alerts."""
        with contextlib.suppress(BlockingIOError):
            while self.alerts_waiting.recv(4096):
                pass
        for alert in self._session.pop_alerts():
            self._handle(alert)
        for address, torrent in self._torrents.values():
            if torrent.fresh:
                torrent.glance(time.monotonic())
            self._report_fresh(address, torrent)

    def _report_fresh(self, address: Address, torrent: PeerTorrent) -> None:
        if torrent.fresh:
            self.events.append(protocol.PiecesReceived(address=address, pieces=tuple(torrent.fresh)))
            torrent.fresh = []

    def _handle(self, alert: Any) -> None:
        match alert:
            case lt.listen_succeeded_alert():
                if alert.socket_type in (lt.socket_type_t.tcp, lt.socket_type_t.tcp_ssl):
                    self.events.append(
                        protocol.SessionReady(port=alert.port, tls=alert.socket_type == lt.socket_type_t.tcp_ssl)
                    )
            case lt.listen_failed_alert():
                self.events.append(protocol.PeerFailure(reason=f"cannot listen: {alert.message()}"))
            case lt.peer_blocked_alert():
                if int(alert.reason) == _IP_FILTER:
                    self.events.append(protocol.AddressBlocked(ip=alert.endpoint[0]))
            case lt.state_update_alert():
                for status in alert.status:
                    self._progress(status)
            case lt.alerts_dropped_alert():
                self._recount()
            case lt.torrent_alert():
                self._handle_content(alert)

    def _recount(self) -> None:
        """Query the pieces that are here, after libtorrent dropped alerts."""
        for _, torrent in self._torrents.values():
            if not torrent.complete:
                status = torrent.handle.status(lt.torrent_handle.query_pieces)
                torrent.fresh += [piece for piece, here in enumerate(status.pieces) if here]
                # The alert of a flush may have been dropped: flush again, and wait for this alert only.
                torrent.flushing, torrent.finished = 0, status.is_seeding
                torrent.flush()

    def _handle_content(self, alert: Any) -> None:
        """Handle an alert about one content."""
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
                    self._report_fresh(address, torrent)
                    self._progress(torrent.handle.status(lt.torrent_handle.query_accurate_download_counters))
                    self.events.append(protocol.ContentComplete(address=address))
            case lt.hash_failed_alert():
                self._report_corrupt(address, torrent, int(alert.piece_index))
            case lt.peer_ban_alert():
                self.events.append(protocol.PeerBanned(address=address, peer=endpoint_text(alert.endpoint)))
            case lt.file_error_alert() | lt.torrent_error_alert():
                # From now on verified blocks may be missing on disk; libtorrent does not report that.
                torrent.broken = True
                self.events.append(protocol.PeerFailure(address=address, reason=alert.message()))

    def _report_corrupt(self, address: Address, torrent: PeerTorrent, piece: int) -> None:
        """Report a wrong piece. The culprit is certain only if one peer sent all of it.

        libtorrent bans on weaker evidence, and sometimes the wrong peer. So from the first wrong piece on the sender of
        each block is recorded here; before that it would cost more than it is worth.
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
            protocol.CorruptPiece(address=address, piece=piece, culprit=culprit, suspects=tuple(sorted(suspects)))
        )

    def beat(self) -> None:
        """Send a heartbeat, and ask libtorrent for changes."""
        self.events.append(protocol.Heartbeat())
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
        now = protocol.ContentProgress(
            address=address,
            partial=torrent.partial,
            from_peers=status.total_payload_download,
            wasted=status.total_redundant_bytes + status.total_failed_bytes,
            sent=status.total_payload_upload,
            peers=status.num_peers,
            feeders=torrent.feeders,
        )
        if now != torrent.reported:
            torrent.reported = now
            self.events.append(now)

    @staticmethod
    def _key(handle: Any) -> bytes:
        try:
            return bytes(handle.info_hashes().v2.to_bytes())
        except RuntimeError:  # it was removed while its alert waited
            return b""


def _allow_only(ips: tuple[str, ...]) -> Any:
    """Make a filter that lets only these addresses through."""
    rules = lt.ip_filter()
    for first, last in _ALL_ADDRESSES:
        rules.add_rule(first, last, 1)
    for ip in ips:
        rules.add_rule(ip, ip, 0)
    return rules


def main() -> None:
    """Execute commands until standard input ends."""
    peer, frames = PeerSession(), protocol.FrameReader()
    waiting = selectors.DefaultSelector()
    waiting.register(0, selectors.EVENT_READ)
    waiting.register(peer.alerts_waiting, selectors.EVENT_READ)
    beat = time.monotonic()
    read_at = never = float("inf")
    try:
        while True:
            for key, _ in waiting.select(max(0.0, min(beat, read_at) - time.monotonic())):
                if key.fd != 0:
                    waiting.unregister(peer.alerts_waiting)
                    read_at = time.monotonic() + GATHER
                    continue
                data = os.read(0, 1 << 20)
                if not data:
                    # The node has ended: end at once, without waiting for libtorrent's threads.
                    os._exit(0)
                for line, attached in frames.feed(data):
                    peer.execute(protocol.parse_command(line), attached)
            now = time.monotonic()
            if now >= read_at:
                read_at = never
                peer.read_alerts()
                waiting.register(peer.alerts_waiting, selectors.EVENT_READ)
            if now >= beat:
                beat = now + BEAT
                peer.beat()
            output, peer.events = b"".join(protocol.encode_frame(event) for event in peer.events), []
            while output:
                output = output[os.write(1, output) :]
    except BrokenPipeError:
        os._exit(0)


if __name__ == "__main__":
    main()
    sys.exit(0)
