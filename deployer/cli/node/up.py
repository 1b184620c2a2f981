"""Catalog, node and perhaps a site on one machine, in one terminal: children, their lines with their names before them."""

import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any

from deployer.errors import BackendFailed
from signer.runtime import terminal

READY_WITHIN = 60.0
"""Seconds. A first start migrates a database, tries KVM out and opens libvirt: a few seconds each at the worst."""

END_WITHIN = 60.0
"""Seconds that a child gets to end by itself: guests are destroyed, deployments undone."""


class _Ended(BaseException):
    """We were told to end."""


def run_both(
    environment: Mapping[str, str],
    sets: Sequence[str],
    config: Path | None,
    *,
    keep_machines: bool,
    as_json: bool,
    site: Callable[[str], None] | None = None,
) -> None:
    """Run both services until SIGINT, SIGTERM, or until one of them ends.

    Args:
        environment: of the children.
        sets: what was given as --set.
        config: what was given as --config.
        keep_machines: leave machines running at the end.
        as_json: print what is ready as JSON.
        site: called with the URL of a site's service that runs then, before the node starts; None runs none.

    Raises:
        BackendFailed: a service did not start, or ended by itself.
    """
    base = [sys.executable, "-m", "partita"]
    for text in sets:
        base += ["--set", text]
    if config is not None:
        base += ["--config", str(config)]
    children: list[tuple[str, subprocess.Popen[bytes]]] = []
    before = {name: signal.signal(name, _end) for name in (signal.SIGTERM, signal.SIGINT)}
    try:
        with tempfile.TemporaryDirectory(prefix="partita-up-") as place:
            catalog_ready, site_ready, node_ready = (Path(place) / name for name in ("catalog", "site", "node"))
            children.append(
                _start("catalog", [*base, "catalog", "serve", "--ready-file", str(catalog_ready)], environment)
            )
            url = _wait(catalog_ready, children)
            ending = [] if keep_machines else ["--end-machines"]
            # The catalog may have taken a free port: the node is told which.
            node = dict(environment) | {"PARTITA_NODE_CATALOG": url}
            value = {"catalog": url}
            if site is not None:
                known = dict(environment) | {"PARTITA_SITE_CATALOG": url}
                children.append(_start("site", [*base, "site", "serve", "--ready-file", str(site_ready)], known))
                value["site"] = _wait(site_ready, children)
                site(value["site"])
            children.append(_start("node", [*base, "node", "serve", "--ready-file", str(node_ready), *ending], node))
            socket = _wait(node_ready, children)
            value["socket"] = socket
            there = "".join(f"{name} at {where}, " for name, where in value.items() if name != "socket")
            ends = "both" if site is None else "all"
            terminal.show(value, f"up: {there}node at {socket}; Ctrl-C ends {ends}", as_json=as_json)
            _watch(children)
    except _Ended:
        pass
    finally:
        for name in before:
            signal.signal(name, signal.SIG_IGN)
        for _name, child in reversed(children):  # the node first: its last requests still find the catalog
            child.terminate()
            with suppress(subprocess.TimeoutExpired):
                child.wait(END_WITHIN)
            if child.poll() is None:
                child.kill()
                child.wait()
        for name, handler in before.items():
            signal.signal(name, handler)


def _start(name: str, command: list[str], environment: Mapping[str, str]) -> tuple[str, subprocess.Popen[bytes]]:
    # In a session of its own: Ctrl-C reaches this process alone, which then ends its children in order.
    child = subprocess.Popen(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert child.stdout is not None  # noqa: S101 - it was asked for
    threading.Thread(target=_relay, args=(name, child.stdout), daemon=True).start()
    return name, child


def _relay(name: str, lines: IO[bytes]) -> None:
    for line in lines:
        text = terminal.printable(line.decode(errors="replace").rstrip())
        sys.stderr.write(f"{name:>7} | {text}\n")
        sys.stderr.flush()


def _wait(ready: Path, children: Sequence[tuple[str, subprocess.Popen[bytes]]]) -> str:
    until = time.monotonic() + READY_WITHIN
    while not ready.exists():
        _look(children)
        if time.monotonic() > until:
            raise BackendFailed(f"the {children[-1][0]} was not ready within {READY_WITHIN:.0f} s; its lines say why")
        time.sleep(0.05)
    return ready.read_text().strip()


def _watch(children: Sequence[tuple[str, subprocess.Popen[bytes]]]) -> None:
    while True:
        _look(children)
        time.sleep(0.2)


def _look(children: Sequence[tuple[str, subprocess.Popen[bytes]]]) -> None:
    for name, child in children:
        if (status := child.poll()) is not None:
            raise BackendFailed(f"the {name} ended with {status}; its lines above say why")


def _end(_signal: int, _frame: FrameType | None) -> Any:
    raise _Ended
