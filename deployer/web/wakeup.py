"""Wakes whoever waits for news of a site: many requests that wait, and one thread that looks.

A long poll or a stream that held a thread of the pool each would let forty nodes stop a service. Here a request waits on
the event loop, and the thread that watches the store rings for all of them; each then looks for what concerns it.
"""

import asyncio


class Wakeup:
    """Rings on one event loop. A ring between looking and waiting is not lost: one waits for a ring after a count."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self.count = 0
        self.ended = False

    def hang(self) -> None:
        """Be rung on the loop that runs now."""
        self._loop = asyncio.get_running_loop()

    def ring(self) -> None:
        """Something happened. From any thread."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._ring)

    def end(self) -> None:
        """Nobody should wait any longer. From any thread."""
        self.ended = True
        self.ring()

    def time(self) -> float:
        """Seconds, of the loop that runs now."""
        return asyncio.get_running_loop().time()

    async def wait(self, count: int, seconds: float) -> None:
        """Until it has rung more than so many times, or has ended, or the time is over."""
        if self.count > count or self.ended or seconds <= 0:
            return
        rung = asyncio.get_running_loop().create_future()
        self._waiting.add(rung)
        try:
            await asyncio.wait_for(rung, seconds)
        except TimeoutError:
            pass
        finally:
            self._waiting.discard(rung)

    def _ring(self) -> None:
        self.count += 1
        for rung in self._waiting:
            if not rung.done():
                rung.set_result(None)
