"""Buffers for blocks: all uploads of a process share one budget of memory, however many workers there are.

A worker takes a buffer for one block and gives it back, so memory depends on the requests under way, not on the workers.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from deployer.ec2.snapshots.blocks import BLOCK_SIZE

IN_FLIGHT: Final = 64 << 20
"""Bytes of blocks under way: 128 of them. AWS takes 500 MB/s from an account; at 60 ms a block that is 30 MB."""


class BufferPool:
    """Buffers of one block each; for any number of threads.

    Args:
        most: bytes of all buffers taken at one time; at least one buffer is always lent.
    """

    def __init__(self, most: int = IN_FLIGHT) -> None:
        self.most = max(1, most // BLOCK_SIZE)
        self._taken = 0
        self._free: list[bytearray] = []
        self._given = threading.Condition()

    @property
    def taken(self) -> int:
        """The number of buffers in use."""
        return self._taken

    @contextmanager
    def one(self) -> Iterator[bytearray]:
        """Lend a buffer with arbitrary bytes while the block runs; waits until one is free."""
        with self.counted():
            with self._given:
                buffer = self._free.pop() if self._free else bytearray(BLOCK_SIZE)
            try:
                yield buffer
            finally:
                with self._given:
                    self._free.append(buffer)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count a block that has its own memory as a buffer while the `with` block runs."""
        with self._given:
            self._given.wait_for(lambda: self._taken < self.most)
            self._taken += 1
        try:
            yield
        finally:
            with self._given:
                self._taken -= 1
                if not self._taken:  # nothing is under way: nothing is kept
                    self._free.clear()
                self._given.notify()
