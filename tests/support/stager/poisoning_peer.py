"""A peer that offers wrong bytes: a seed of a file with flipped bits that checks nothing. For tests; uses libtorrent bare.

    python -m tests.support.stager.poisoning_peer LISTEN TORRENT DIRECTORY NAME [ANNOUNCE-URL]

Prints the port that it listens on, and seeds until its input ends. With a URL it announces itself as a seed.
"""

import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import libtorrent as lt

from stager.peer.engine_profiles import EngineProfile, session_settings


def main(listen: str, torrent: str, directory: str, name: str, announce: str = "") -> None:
    """Seed."""
    own = {"disable_hash_checks": True, "outgoing_interfaces": listen.rpartition(":")[0]}
    chosen = session_settings(EngineProfile.BULK, listen, 0, 0) | own
    session = lt.session(chosen, flags=0)
    params = lt.load_torrent_buffer(Path(torrent).read_bytes())
    params.save_path, params.renamed_files = directory, {0: name}
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    params.flags |= lt.torrent_flags.no_verify_files | lt.torrent_flags.disable_pex
    params.have_pieces = [True] * params.ti.num_pieces()
    session.add_torrent(params)
    while not session.listen_port():
        time.sleep(0.05)
    if announce:
        query = {"info_hash": params.info_hashes.v2.to_bytes()[:20], "peer_id": b"-PO1S0N-............"}
        numbers = f"port={session.listen_port()}&left=0&uploaded=0&downloaded=0&event=started&compact=1"
        text = "&".join(f"{key}={urllib.parse.quote(value)}" for key, value in query.items())
        urllib.request.urlopen(f"{announce}?{text}&{numbers}", timeout=10).read()
    sys.stdout.write(f"{session.listen_port()}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
