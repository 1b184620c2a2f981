"""The last requests that a node decided, with every fact that it decided by: what another policy is tried on.

One line of JSON each, appended; when there are twice as many as are kept, the older half is dropped. Nothing depends on
this file: one that is damaged loses the lines that are.
"""

import base64
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field

from catalog.image.manifest import ImageId, Manifest
from deployer.policy.decision import Decision, Request
from deployer.policy.revocations import BlockList, RevocationState
from signer.documents import Document, read_json, validate
from signer.errors import DocumentError
from signer.runtime import files
from signer.statements.endorsement import Instant

MAX_REQUESTS = 1000
"""Requests that are kept: some weeks of a busy node, and little enough to be judged again within a minute."""

MAX_LINE = 16 << 20
"""Bytes of one: a manifest of 1 MiB and 64 endorsements of the largest size, in base64."""

MAX_LOG = 128 << 20
"""Bytes of the file, after which the older half is dropped whatever the count."""

MAX_REVOCATIONS_KEPT = 256 << 10
"""Bytes of revocations that are kept with each request: some three hundred of them."""

log = logging.getLogger("partita.node")


class EncodedStatement(Document):
    """A statement and its signature, in base64: strangers sent them, and they may be anything."""

    statement: str
    signature: str

    @classmethod
    def of(cls, pair: tuple[bytes, bytes]) -> Self:
        """From the bytes."""
        return cls(statement=base64.b64encode(pair[0]).decode(), signature=base64.b64encode(pair[1]).decode())

    def bytes(self) -> tuple[bytes, bytes]:
        """(statement, signature)."""
        return base64.b64decode(self.statement), base64.b64decode(self.signature)


def encode_revocations(pairs: Sequence[tuple[bytes, bytes]]) -> tuple[EncodedStatement, ...] | None:
    """Revocations in the form that is kept; None where they are too many."""
    if sum(len(statement) + len(signature) for statement, signature in pairs) > MAX_REVOCATIONS_KEPT:
        return None
    return tuple(EncodedStatement.of(pair) for pair in pairs)


class PolicyOutcome(Document):
    """The outcome of a policy: its digest, and the names of the rules that refuse."""

    policy: str
    accepted: bool
    failed: tuple[str, ...]

    @classmethod
    def of(cls, decision: Decision) -> Self:
        """From a decision."""
        return cls(
            policy=decision.policy, accepted=decision.accepted, failed=tuple(rule.name for rule in decision.failed)
        )


class RequestRecord(Document):
    """One request with its facts, and what came of it.

    Attributes:
        number: counts on, for as long as the file lives.
        at: when it was decided.
        asked, running: the request, and how many machines the node had.
        image: the image ID.
        manifest: its canonical text.
        endorsements: all that the catalog sent.
        revocations: all that the node had seen; None where they were too many to be kept with each request.
        blocks: the site's block list.
        outcome: of the policy in force.
        shadow: the outcome of the policy in its shadow.
    """

    number: Annotated[int, Field(ge=1)]
    at: Instant
    asked: Request
    running: int
    image: ImageId
    manifest: str
    endorsements: tuple[EncodedStatement, ...]
    revocations: tuple[EncodedStatement, ...] | None = ()
    blocks: BlockList = BlockList()
    outcome: PolicyOutcome
    shadow: PolicyOutcome | None = None

    def parsed(self) -> Manifest:
        """The manifest."""
        return Manifest.parse(self.manifest.encode())

    def pairs(self) -> Sequence[tuple[bytes, bytes]]:
        """The endorsements' bytes."""
        return [pair.bytes() for pair in self.endorsements]

    def withdrawn(self) -> RevocationState:
        """What had been revoked or blocked."""
        return RevocationState(tuple(pair.bytes() for pair in self.revocations or ()), self.blocks)


class RequestLog:
    """The file of one node, which alone writes it. Safe to use from several threads."""

    def __init__(self, path: Path, kept: int = MAX_REQUESTS) -> None:
        self.path, self._kept = path, kept
        self._lock = threading.Lock()
        numbers = [record.number for record, _ in _read(path)]
        self._next, self._count = (numbers[-1] if numbers else 0) + 1, len(numbers)

    def append(self, record: RequestRecord) -> int:
        """Keep a request under the next number, which is returned; what cannot be kept is logged and let go."""
        with self._lock:
            number = self._next
            line = record.model_copy(update={"number": number}).model_dump_json(exclude_none=True).encode() + b"\n"
            if len(line) > MAX_LINE:
                log.warning("%s: a request of %d bytes is not kept", self.path, len(line))
                return number
            try:
                if self._count >= 2 * self._kept or (self.path.exists() and self.path.stat().st_size > MAX_LOG):
                    self._trim()
                with self.path.open("a+b") as file:
                    if file.tell():
                        file.seek(-1, os.SEEK_END)
                        file.write(b"" if file.read(1) == b"\n" else b"\n")
                    file.write(line)
            except OSError as exc:
                log.warning("%s: the request cannot be kept: %s", self.path, exc.strerror)
                return number
            self._next, self._count = number + 1, self._count + 1
            return number

    def _trim(self) -> None:
        kept = [line for _, line in _read(self.path)][-self._kept :]
        if sum(map(len, kept)) > MAX_LOG // 2:
            kept = kept[len(kept) // 2 :]
        files.write(self.path, b"".join(kept), sync=None)
        self._count = len(kept)


def read_requests(path: Path, last: int = MAX_REQUESTS) -> list[RequestRecord]:
    """The last requests of a node's file, the oldest first; lines that are damaged are left out."""
    return [record for record, _ in _read(path)][-last:] if last > 0 else []


def find_request(path: Path, number: int) -> RequestRecord | None:
    """One of them, by number."""
    return next((record for record in read_requests(path) if record.number == number), None)


def _read(path: Path) -> Iterator[tuple[RequestRecord, bytes]]:
    """Each line that is a record, and its bytes."""
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE + 1):
                try:
                    yield (
                        validate(RequestRecord, _newest(read_json(line, str(path), limit=MAX_LINE + 1)), str(path)),
                        line,
                    )
                except DocumentError:
                    continue
    except FileNotFoundError:
        return


def _newest(value: Any) -> Any:
    """Lines of before 2026-12 say only what a machine could grow to, and call it `memory` and `cores`."""
    asked = value.get("asked") if isinstance(value, dict) else None
    if not isinstance(asked, dict) or "max_memory" in asked:
        return value
    return value | {"asked": asked | {"max_memory": asked.get("memory"), "max_cores": asked.get("cores")}}
