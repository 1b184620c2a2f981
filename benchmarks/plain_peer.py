"""libtorrent by itself, as the peer to measure against: one content, all peers told, nothing else. A process of its own.

    python -m benchmarks.plain_peer JSON

JSON: listen, torrent, directory, name, seed, peers ([[ip, port]...]), settings (beyond the defaults), start (wall clock).
Prints the port when it listens; a leecher prints its seconds when it has everything; ends with its input, printing its CPU.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import libtorrent as lt

QUIET = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "dht_bootstrap_nodes": "",
    "webtorrent_stun_server": "",
    "allow_multiple_connections_per_ip": True,
}
TCP_ONLY = {"enable_outgoing_utp": False, "enable_incoming_utp": False}
TUNED = {
    **TCP_ONLY,
    "send_buffer_watermark": 4 << 20,
    "send_buffer_low_watermark": 512 << 10,
    "send_buffer_watermark_factor": 200,
    "max_out_request_queue": 1500,
    "max_allowed_in_request_queue": 4000,
    "request_queue_time": 3,
    "unchoke_slots_limit": -1,
    "out_enc_policy": 2,
    "in_enc_policy": 2,
    "aio_threads": 2,
}
"""What its own manual advises for one fast link: TCP, deep queues and buffers, plain text. All else as it comes."""


def main(text: str) -> None:
    """Take part until the input ends."""
    job = json.loads(text)
    settings: Any = {**QUIET, "listen_interfaces": job["listen"], **job["settings"]}
    session = lt.session(settings)
    params = lt.load_torrent_buffer(Path(job["torrent"]).read_bytes())
    params.save_path, params.renamed_files = job["directory"], {0: job["name"]}
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    params.flags |= lt.torrent_flags.no_verify_files
    assert params.ti is not None
    params.have_pieces = [job["seed"]] * params.ti.num_pieces()
    print(session.listen_port(), flush=True)
    time.sleep(max(0.0, job["start"] - time.time()))
    began = time.monotonic()
    handle = session.add_torrent(params)
    for peer in job["peers"]:
        handle.connect_peer(tuple(peer))
    if not job["seed"]:
        while not handle.status().is_seeding:
            time.sleep(0.01)
        print(time.monotonic() - began, flush=True)
    sys.stdin.read()
    print(time.process_time(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
