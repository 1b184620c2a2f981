"""Wakes requests that wait for changes at a site: many waiting requests, and one thread that watches the store.

If each long poll or stream held a thread of the pool, forty nodes could stop a service. Here a request waits on the
event loop, and the watching thread notifies all of them; each then looks for what concerns it.
"""

import asyncio


class Wakeup:
    """Notifies waiters on one event loop. A notification between looking and waiting is not lost: `wait` takes the count
    of notifications before the look."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self.count = 0
        self.ended = False

    def bind(self) -> None:
        """Notify on the loop that runs now."""
        self._loop = asyncio.get_running_loop()

    def notify(self) -> None:
        """Wake all waiters. From any thread."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._notify)

    def end(self) -> None:
        """End all waits, now and in future. From any thread."""
        self.ended = True
        self.notify()

    def time(self) -> float:
        """The time of the running loop, in seconds."""
        return asyncio.get_running_loop().time()

    async def wait(self, count: int, seconds: float) -> None:
        """Wait until there were more than `count` notifications, or `end` was called, or so many seconds have passed."""
        if self.count > count or self.ended or seconds <= 0:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await asyncio.wait_for(waiter, seconds)
        except TimeoutError:
            pass
        finally:
            self._waiting.discard(waiter)

    def _notify(self) -> None:
        self.count += 1
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
