"""The base of clients and stores that hold connections or files until they are closed."""

from typing import Self


class Closable:
    """Closed by `close`, or at the end of a `with` block."""

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Release the connections or files."""
        raise NotImplementedError
