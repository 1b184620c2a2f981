"""A light answerer of EBS direct API calls, each after a latency: moto takes milliseconds of Python for each block, and
what is to be measured is the uploader. A process of its own; it says its port, and ends with its standard input.

    python -m benchmarks.ebs_responder SECONDS
"""

import asyncio
import json
import os
import sys
import threading
from datetime import UTC, datetime

SNAPSHOT = "snap-0123456789abcdef0"


class Answerer(asyncio.Protocol):
    """One connection: requests of a known length, one after the other."""

    def __init__(self, latency: float) -> None:
        self._latency = latency
        self._head, self._left, self._answer = b"", 0, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what is answered through."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Read heads, pass bodies."""
        if self._left:
            self._left -= len(data)
        else:
            self._head += data
            head, end, body = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            self._head, self._left = b"", -len(body)
            for line in head.split(b"\r\n"):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    self._left += int(value)
            self._answer = answer(head.split(b" ", 2)[0].decode(), head.split(b" ", 2)[1].decode())
        if not self._left:
            asyncio.get_running_loop().call_later(self._latency, self._transport.write, self._answer)


def answer(method: str, path: str) -> bytes:
    """What AWS would say, as far as the uploader looks at it."""
    kind, body = "application/json", {}
    if method == "PUT":
        status = "201 Created"
    elif path == "/snapshots":
        status, body = (
            "201 Created",
            {"SnapshotId": SNAPSHOT, "BlockSize": 524288, "VolumeSize": 1, "Status": "pending"},
        )
    elif path.startswith("/snapshots/completion/"):
        status, body = "202 Accepted", {"Status": "completed"}
    else:
        status, kind = "200 OK", "text/xml"
    data = described() if kind == "text/xml" else json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def described() -> bytes:
    """DescribeSnapshots: the one snapshot, completed."""
    when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return (
        '<DescribeSnapshotsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><snapshotSet><item>'
        f"<snapshotId>{SNAPSHOT}</snapshotId><status>completed</status><startTime>{when}</startTime>"
        "</item></snapshotSet></DescribeSnapshotsResponse>"
    ).encode()


async def serve(latency: float) -> None:
    """Until whoever started this is gone."""
    server = await asyncio.get_running_loop().create_server(lambda: Answerer(latency), "127.0.0.1", 0, backlog=512)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1])))
