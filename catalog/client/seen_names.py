"""A node's permanent record of names: which image each name and version was seen to stand for."""

import os
import threading
from pathlib import Path

from catalog.errors import Equivocation, Unavailable


class SeenNames:
    """A file with a line for each name and version and its image; a line is on the disk before it is acted on."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()
        self._seen: dict[str, str] | None = None
        self._written: set[str] = set()

    def record(self, title: str, image_id: str) -> None:
        """Record what a name and version stands for; Equivocation if it stood for another image before."""
        with self._lock:
            known = self._load()
            before = known.setdefault(title, image_id)
            if before != image_id:
                raise Equivocation(
                    f"ALARM: {title} stood for {before} and now stands for {image_id}; the image of a name and version never "
                    "changes. It is a forgery, or a key was stolen: ask the VO and the catalog before anything else"
                )
            if title not in self._written:
                self._append(title, image_id)

    def _load(self) -> dict[str, str]:
        if self._seen is None:
            self._seen = {}
            lines = self._path.read_bytes().split(b"\n") if self._path.exists() else []
            for line in lines:
                title, _, image_id = line.decode("utf-8", "replace").rpartition(" ")
                if title and len(image_id) == 71:  # a line that a crash truncated was never acted on
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
            raise Unavailable(f"{self._path}: cannot be written ({exc.strerror}); check the disk") from exc
        self._written.add(title)
