"""What the real services do and moto does not: the proxy puts it in between.

EBS direct APIs: blocks of 524288 bytes; client tokens; parents; checksums, lengths and counts that are checked; snapshots
that are pending until they are completed, and for a while after; pages. EC2: client tokens; snapshots' states and when
they were completed; no use of what is pending. Sources: the EBS direct APIs' and EC2's API references.
"""

import base64
import hashlib
import itertools
import json
import re
import threading
import time
import urllib.parse
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

BLOCK = 524288
GIB_BLOCKS = 2048


@dataclass
class Request:
    """As it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def service(self) -> str:
        """As the signature's scope has it: ebs, ec2, sts."""
        found = re.search(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/", self.headers.get("Authorization", ""))
        return found[1] if found else ""

    @property
    def form(self) -> dict[str, str]:
        """The parameters of the EC2 Query API."""
        return dict(urllib.parse.parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True))


@dataclass
class Response:
    """As it goes."""

    status: int
    headers: dict[str, str]
    body: bytes


Forward = Callable[[Request], Response]


def ebs_error(status: int, code: str, message: str, reason: str = "") -> Response:
    """An error as the EBS direct APIs have it."""
    body = {"Message": message} | ({"Reason": reason} if reason else {})
    return Response(status, {"Content-Type": "application/json", "x-amzn-ErrorType": code}, json.dumps(body).encode())


def ec2_error(status: int, code: str, message: str) -> Response:
    """An error as EC2 has it."""
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?><Response><Errors><Error><Code>{code}</Code><Message>{message}'
        "</Message></Error></Errors><RequestID>00000000-0000-4000-8000-000000000000</RequestID></Response>"
    )
    return Response(status, {"Content-Type": "text/xml;charset=UTF-8"}, body.encode())


@dataclass
class Snapshot:
    """A snapshot of the direct APIs."""

    snapshot_id: str
    gib: int
    parent: "Snapshot | None"
    own: dict[int, bytes] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    sealed: float | None = None
    completed: datetime | None = None
    deleted: bool = False

    def state(self, seal: float) -> str:
        """Pending while it is written, and for `seal` seconds after."""
        if self.sealed is None or time.monotonic() < self.sealed + seal:
            return "pending"
        return "completed"

    def holder(self, index: int) -> "Snapshot | None":
        """Which of it and its parents has a block."""
        return self if index in self.own else self.parent.holder(index) if self.parent else None

    def indices(self) -> set[int]:
        """All blocks that it has."""
        return set(self.own) | (self.parent.indices() if self.parent else set())


class AsAws:
    """One AWS for all accounts and regions that moto has; for several threads."""

    def __init__(self) -> None:
        self.seal = self.young = 0.0
        self.corrupt: set[tuple[str, int]] = set()
        self._lock = threading.RLock()
        self._snapshots: dict[str, Snapshot] = {}
        self._tokens: dict[tuple[str, str], tuple[Any, Response]] = {}
        self._instants = itertools.count()

    def answer(self, request: Request, forward: Forward) -> Response:
        """The real service's answer."""
        if request.service == "ebs":
            return self._ebs(request, forward)
        if request.service == "ec2":
            return self._ec2(request, forward)
        return forward(request)

    def cancel(self, snapshot_id: str) -> None:
        """As AWS does with a snapshot that nobody has gone on with for its timeout."""
        self._snapshots[snapshot_id].deleted = True

    # The EBS direct APIs

    def _ebs(self, request: Request, forward: Forward) -> Response:
        split = urllib.parse.urlsplit(request.path)
        parts, query = split.path.strip("/").split("/"), dict(urllib.parse.parse_qsl(split.query))
        match request.method, parts:
            case "POST", ["snapshots"]:
                return self._start(request, forward)
            case "POST", ["snapshots", "completion", snapshot_id]:
                return self._complete(request, forward, snapshot_id)
            case "PUT", ["snapshots", snapshot_id, "blocks", index]:
                return self._put(request, forward, snapshot_id, int(index))
            case "GET", ["snapshots", snapshot_id, "blocks"]:
                return self._list(snapshot_id, query)
            case "GET", ["snapshots", snapshot_id, "blocks", index]:
                return self._get(request, forward, snapshot_id, int(index), query)
        return ebs_error(400, "ValidationException", "unknown operation")

    def _start(self, request: Request, forward: Forward) -> Response:
        wanted = json.loads(request.body)
        token = wanted.get("ClientToken", "")
        with self._lock:
            if (known := self._tokens.get(("ebs", token))) is not None and token:
                if known[0] != wanted:
                    return ebs_error(409, "ConflictException", "the client token was used for another request")
                return known[1]
            parent = None
            if below := wanted.get("ParentSnapshotId"):
                parent = self._snapshots.get(below)
                if parent is None or parent.deleted or parent.state(self.seal) != "completed":
                    return ebs_error(400, "ValidationException", "no such parent", "INVALID_SNAPSHOT_ID")
                if wanted["VolumeSize"] < parent.gib:
                    return ebs_error(400, "ValidationException", "smaller than its parent", "INVALID_VOLUME_SIZE")
            response = forward(request)
            answer = json.loads(response.body)
            answer["BlockSize"] = BLOCK
            if parent:
                answer["ParentSnapshotId"] = parent.snapshot_id
            response.body = json.dumps(answer).encode()
            self._snapshots[answer["SnapshotId"]] = Snapshot(answer["SnapshotId"], wanted["VolumeSize"], parent)
            self._tokens["ebs", token] = (wanted, response)
            return response

    def _found(self, snapshot_id: str) -> Snapshot | None:
        found = self._snapshots.get(snapshot_id)
        return None if found is None or found.deleted or self._is_young(found) else found

    def _is_young(self, found: Snapshot) -> bool:
        """Started a moment ago, and not known everywhere."""
        return time.monotonic() < found.started + self.young

    def _put(self, request: Request, forward: Forward, snapshot_id: str, index: int) -> Response:
        found = self._found(snapshot_id)
        if found is None:
            return ebs_error(404, "ResourceNotFoundException", "no such snapshot", "SNAPSHOT_NOT_FOUND")
        if found.sealed is not None:
            return ebs_error(400, "ValidationException", "the snapshot is not pending", "INVALID_PARAMETER_VALUE")
        digest = hashlib.sha256(request.body).digest()
        headers = {name.lower(): value for name, value in request.headers.items()}
        if (
            len(request.body) != BLOCK
            or headers.get("x-amz-data-length") != str(BLOCK)
            or index >= found.gib * GIB_BLOCKS
            or headers.get("x-amz-checksum-algorithm") != "SHA256"
            or headers.get("x-amz-checksum") != base64.b64encode(digest).decode()
        ):
            return ebs_error(400, "ValidationException", "the block is not valid", "INVALID_BLOCK")
        response = forward(request)
        if response.status < 300:
            with self._lock:
                found.own[index] = digest
        return response

    def _complete(self, request: Request, forward: Forward, snapshot_id: str) -> Response:
        found = self._found(snapshot_id)
        if found is None:
            return ebs_error(404, "ResourceNotFoundException", "no such snapshot", "SNAPSHOT_NOT_FOUND")
        headers = {name.lower(): value for name, value in request.headers.items()}
        with self._lock:
            if found.sealed is not None:
                return ebs_error(400, "ValidationException", "the snapshot is not pending", "INVALID_PARAMETER_VALUE")
            total = hashlib.sha256(b"".join(found.own[index] for index in sorted(found.own))).digest()
            given = headers.get("x-amz-checksum")
            if int(headers["x-amz-changedblockscount"]) != len(found.own) or (
                given is not None and given != base64.b64encode(total).decode()
            ):
                return ebs_error(400, "ValidationException", "other blocks were written", "INVALID_PARAMETER_VALUE")
            response = forward(request)
            if response.status < 300:
                found.sealed = time.monotonic()
                # Milliseconds tell completions apart, as there they do.
                found.completed = datetime.now(UTC)
            return response

    def _list(self, snapshot_id: str, query: Mapping[str, str]) -> Response:
        found = self._found(snapshot_id)
        if found is None or found.state(self.seal) != "completed":
            return ebs_error(404, "ResourceNotFoundException", "no such snapshot", "SNAPSHOT_NOT_FOUND")
        most = int(query.get("maxResults", 10000))
        if not 100 <= most <= 10000:
            return ebs_error(400, "ValidationException", "maxResults", "INVALID_PARAMETER_VALUE")
        first = int(query.get("pageToken") or query.get("startingBlockIndex") or 0)
        indices = sorted(index for index in found.indices() if index >= first)
        answer: dict[str, Any] = {
            "Blocks": [{"BlockIndex": index, "BlockToken": _token(snapshot_id, index)} for index in indices[:most]],
            "BlockSize": BLOCK,
            "VolumeSize": found.gib,
            "ExpiryTime": time.time() + 7 * 86400,
        }
        if len(indices) > most:
            answer["NextToken"] = str(indices[most])
        return Response(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def _get(
        self, request: Request, forward: Forward, snapshot_id: str, index: int, query: Mapping[str, str]
    ) -> Response:
        found = self._found(snapshot_id)
        holder = found.holder(index) if found else None
        if holder is None:
            return ebs_error(404, "ResourceNotFoundException", "no such block", "SNAPSHOT_NOT_FOUND")
        if query.get("blockToken") != _token(snapshot_id, index):
            return ebs_error(400, "ValidationException", "blockToken", "INVALID_BLOCK_TOKEN")
        path = f"/snapshots/{holder.snapshot_id}/blocks/{index}?blockToken=x"
        response = forward(Request("GET", path, request.headers, b""))
        if (holder.snapshot_id, index) in self.corrupt:
            # As if it had been written so: the checksum is right, and the block is another.
            response.body = bytes([response.body[0] ^ 1]) + response.body[1:]
            digest = base64.b64encode(hashlib.sha256(response.body).digest()).decode()
            response.headers = {
                name: digest if name.lower() == "x-amz-checksum" else value for name, value in response.headers.items()
            }
        return response

    # EC2

    def _ec2(self, request: Request, forward: Forward) -> Response:
        form = request.form
        action, token = form.get("Action", ""), form.get("ClientToken")
        refused = self._refused(action, form)
        if refused is not None:
            return refused
        if token:
            wanted = {name: value for name, value in form.items() if not name.startswith("X-Amz")}
            with self._lock:
                if (known := self._tokens.get((action, token))) is not None:
                    if known[0] != wanted:
                        return ec2_error(400, "IdempotentParameterMismatch", "the token was used for another request")
                    return known[1]
                response = forward(request)
                if response.status < 300:
                    self._tokens[action, token] = (wanted, response)
                return response
        response = forward(request)
        if action == "DescribeSnapshots" and response.status < 300:
            response.body = self._described(response.body, form)
        if action == "DeleteSnapshot" and response.status < 300 and form["SnapshotId"] in self._snapshots:
            self._snapshots[form["SnapshotId"]].deleted = True
        return response

    def _refused(self, action: str, form: Mapping[str, str]) -> Response | None:
        """What EC2 refuses and moto does: use of a snapshot that is pending, or was cancelled."""
        if action in {"DescribeSnapshots", "DeleteSnapshot"}:
            return None
        for name, value in form.items():
            if name.endswith("SnapshotId") and (found := self._snapshots.get(value)) is not None:
                if found.deleted:
                    return ec2_error(400, "InvalidSnapshot.NotFound", f"The snapshot '{value}' does not exist.")
                if found.state(self.seal) != "completed":
                    return ec2_error(400, "IncorrectState", f"{value} is not in state completed")
        return None

    def _described(self, body: bytes, form: Mapping[str, str]) -> bytes:
        """Put in what state our snapshots are in, and take out what was not asked for then."""
        wanted = {
            value
            for name, value in form.items()
            if (found := re.fullmatch(r"(Filter\.\d+)\.Value\.\d+", name)) and form.get(f"{found[1]}.Name") == "status"
        }
        root = ET.fromstring(body)  # noqa: S314 - written by moto
        space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
        if space:
            ET.register_namespace("", space.strip("{}"))
        every = root.find(f"{space}snapshotSet")
        assert every is not None
        for item in list(every):
            found = self._snapshots.get(item.findtext(f"{space}snapshotId") or "")
            if found is None:
                continue
            if self._is_young(found):
                every.remove(item)
                continue
            state = item.find(f"{space}status")
            assert state is not None
            state.text = found.state(self.seal)
            if state.text == "completed" and found.completed:
                instant = found.completed.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
                ET.SubElement(item, f"{space}completionTime").text = instant
            if found.deleted or (wanted and state.text not in wanted):
                every.remove(item)
        return ET.tostring(root)


def _token(snapshot_id: str, index: int) -> str:
    return hashlib.sha256(f"{snapshot_id} {index}".encode()).hexdigest()
