"""What a node remembers of names: which image each name and version was seen to stand for, a line each, for ever."""

import os
import threading
from pathlib import Path

from catalog.errors import Equivocation, Unavailable


class SeenNames:
    """Which image each name and version was seen to stand for: a line each, on the disk before it is acted on."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._seen: dict[str, str] | None = None
        self._written: set[str] = set()

    def saw(self, title: str, image_id: str) -> None:
        """Equivocation if it stood for another image before."""
        with self._lock:
            known = self._load()
            before = known.setdefault(title, image_id)
            if before != image_id:
                raise Equivocation(
                    f"ALARM: {title} stood for {before} and is now said to stand for {image_id}; a name and version never "
                    "changes. Somebody forges, or a key is stolen: ask the VO and the catalog before anything else"
                )
            if title not in self._written:
                self._append(title, image_id)

    def _load(self) -> dict[str, str]:
        if self._seen is None:
            self._seen = {}
            lines = self._path.read_bytes().split(b"\n") if self._path.exists() else []
            for line in lines:
                title, _, image_id = line.decode("utf-8", "replace").rpartition(" ")
                if title and len(image_id) == 71:  # a line that was cut by a crash was never acted on
                    self._seen[title] = image_id
            self._written = set(self._seen)
        return self._seen

    def _append(self, title: str, image_id: str) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                file.write(f"{title} {image_id}\n".encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as exc:
            raise Unavailable(f"{self._path}: cannot be written ({exc.strerror}); look at the disk") from exc
        self._written.add(title)
