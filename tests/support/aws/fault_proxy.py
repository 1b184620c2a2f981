"""A fault proxy before moto's server, as a process of its own; it answers as the real services do where moto does not.

    python -m tests.support.aws.fault_proxy PORT-OF-MOTO

It says its port on standard output, and ends with its standard input. POST /-/faults sets what goes wrong, /-/log
tells what was asked and answered, /-/asked how much that is, POST /-/cancel and /-/corrupt harm a snapshot.
"""

import http.client
import json
import os
import random
import socket
import sys
import threading
import time
import urllib.parse
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.aws.service_behaviour import AsAws, Request, Response, ebs_error, ec2_error

HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server", "host"}


@dataclass
class Faults:
    """What goes wrong.

    Attributes:
        rate: of requests that have a fault, 0 to 1.
        kinds: which: "throttle", "error" (500 before it is done), "done-error" (500 after), "cut" (the answer ends in its
            middle), "no-answer" (done, and the connection closed), "cut-request" (closed in the middle of the request),
            "slow" (answered after `slow` seconds).
        slow: seconds.
        latency: seconds, of every request.
        seal: seconds for which a completed snapshot is still pending.
        young: seconds for which a snapshot that was started is not known.
        only: operations that have faults; all if empty.
        seed: of the chances.
        most: requests that may be under way; what is more is throttled; 0 for any number.
    """

    rate: float = 0.0
    kinds: tuple[str, ...] = ("throttle", "error", "done-error", "cut", "no-answer", "cut-request")
    slow: float = 1.0
    latency: float = 0.0
    seal: float = 0.0
    young: float = 0.0
    only: tuple[str, ...] = ()
    seed: int = 1
    most: int = 0


@dataclass
class World:
    """What all connections share."""

    upstream: int
    aws: AsAws = field(default_factory=AsAws)
    faults: Faults = field(default_factory=Faults)
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    log: list[dict[str, Any]] = field(default_factory=list)
    under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def choose(self, operation: str) -> str:
        """The fault of a request, or nothing."""
        with self.lock:
            if self.faults.most and self.under_way > self.faults.most:
                return "throttle"
            if self.faults.only and operation not in self.faults.only:
                return ""
            return self.chance.choice(self.faults.kinds) if self.chance.random() < self.faults.rate else ""


def operation_of(request: Request) -> tuple[str, str, int]:
    """What a request wants: the operation, the snapshot and the block, where it has them."""
    if request.service != "ebs":
        return request.form.get("Action", ""), "", -1
    parts = urllib.parse.urlsplit(request.path).path.strip("/").split("/")
    match request.method, parts:
        case "POST", ["snapshots"]:
            return "StartSnapshot", "", -1
        case "POST", ["snapshots", "completion", snapshot_id]:
            return "CompleteSnapshot", snapshot_id, -1
        case "PUT", ["snapshots", snapshot_id, "blocks", index]:
            return "PutSnapshotBlock", snapshot_id, int(index)
        case "GET", ["snapshots", snapshot_id, "blocks"]:
            return "ListSnapshotBlocks", snapshot_id, -1
        case "GET", ["snapshots", snapshot_id, "blocks", index]:
            return "GetSnapshotBlock", snapshot_id, int(index)
    return "", "", -1


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    world: World

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that http.server gives it
        """Nothing on standard error."""

    def handle(self) -> None:
        """A client that goes away, killed perhaps, is none of our faults."""
        try:
            super().handle()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def finish(self) -> None:
        """As above."""
        with suppress(ConnectionError, ValueError):
            super().finish()

    def _any(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        if self.path.startswith("/-/"):
            self._control(json.loads(self.rfile.read(length) or b"{}"))
            return
        # Half of a request is enough to know what it wants.
        request = Request(self.command, self.path, self.headers, self.rfile.read(length // 2))
        operation, snapshot_id, index = operation_of(request)
        fault = self.world.choose(operation)
        if fault == "cut-request":
            self._note({"operation": operation, "status": 0, "fault": fault, "snapshot": snapshot_id, "block": index})
            self._hang_up()
            return
        request.body += self.rfile.read(length - length // 2)
        if len(request.body) < length:
            self.close_connection = True
            return
        with self.world.lock:
            self.world.under_way += 1
        try:
            self._serve(request, fault)
        finally:
            with self.world.lock:
                self.world.under_way -= 1

    def _serve(self, request: Request, fault: str) -> None:
        operation, snapshot_id, index = operation_of(request)
        if self.world.faults.latency:
            time.sleep(self.world.faults.latency)
        if fault == "throttle":
            response = (
                ebs_error(400, "RequestThrottledException", "too many", "RESOURCE_LEVEL_THROTTLE")
                if request.service == "ebs"
                else ec2_error(503, "RequestLimitExceeded", "Request limit exceeded.")
            )
        elif fault == "error":
            response = self._broken(request)
        else:
            response = self.world.aws.answer(request, self._forward)
            if fault == "done-error":
                response = self._broken(request)
        if fault == "slow":
            time.sleep(self.world.faults.slow)
        line = {"operation": operation, "status": response.status, "fault": fault}
        self._note(line | ({"snapshot": snapshot_id, "block": index} if snapshot_id else {}))
        if fault == "no-answer":
            self._hang_up()
        else:
            self._reply(response, cut=fault == "cut")

    def _note(self, line: dict[str, Any]) -> None:
        with self.world.lock:
            self.world.log.append(line)

    @staticmethod
    def _broken(request: Request) -> Response:
        if request.service == "ebs":
            return ebs_error(500, "InternalServerException", "an internal error")
        return ec2_error(500, "InternalError", "An internal error has occurred")

    def _forward(self, request: Request) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.world.upstream, timeout=60)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
            # The signature's scope tells moto which service is meant.
            connection.request(request.method, request.path, request.body or None, headers)
            answer = connection.getresponse()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in HOP}
            return Response(answer.status, kept, answer.read())
        finally:
            connection.close()

    def _reply(self, response: Response, *, cut: bool = False) -> None:
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        if cut:
            self.wfile.write(response.body[: len(response.body) // 2])
            self._hang_up()
        else:
            self.wfile.write(response.body)

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _control(self, wanted: dict[str, Any]) -> None:
        world, answer = self.world, b"{}"
        match self.path:
            case "/-/faults":
                with world.lock:
                    world.faults = Faults(
                        **{name: tuple(value) if isinstance(value, list) else value for name, value in wanted.items()}
                    )
                    world.chance = random.Random(world.faults.seed)
                    world.aws.seal, world.aws.young = world.faults.seal, world.faults.young
            case "/-/log":
                with world.lock:
                    answer = json.dumps(world.log[wanted.get("since", 0) :]).encode()
            case "/-/asked":
                answer = json.dumps(len(world.log)).encode()
            case "/-/cancel":
                world.aws.cancel(wanted["snapshot"])
            case "/-/corrupt":
                world.aws.corrupt.add((wanted["snapshot"], wanted["block"]))
        self._reply(Response(200, {"Content-Type": "application/json"}, answer))

    do_GET = do_POST = do_PUT = do_DELETE = _any  # noqa: N815 - the names that http.server looks for


class Server(ThreadingHTTPServer):
    """Many connections at once."""

    daemon_threads = True
    request_queue_size = 512


def main() -> None:
    """Serve until whoever started this is gone."""
    world = World(int(sys.argv[1]))
    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"world": world}))
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
