"""The command `partita up`: catalog, node and optionally a site as child processes, with their names before their output."""

import os
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
from typing import IO, Annotated, Any

import typer

from catalog.settings import CatalogSettings
from deployer.errors import BackendFailed
from deployer.node.settings import DeploySettings
from deployer.site.settings import SiteSettings
from signer.runtime import terminal
from stager.settings import NodeSettings

READY_WITHIN = 60.0
"""Seconds. A first start migrates a database, probes KVM and opens libvirt: a few seconds each at worst."""

END_WITHIN = 60.0
"""Seconds that a child gets to end by itself: guests are destroyed, deployments rolled back."""


class _Ended(BaseException):
    """This process got SIGTERM or SIGINT."""


def run_both(
    environment: Mapping[str, str],
    sets: Sequence[str],
    config: Path | None,
    *,
    keep_machines: bool,
    site: Callable[[str], None] | None = None,
) -> None:
    """Run both services until SIGINT, SIGTERM, or until one of them ends.

    Args:
        environment: of the children.
        sets: the values of --set.
        config: the value of --config.
        keep_machines: leave machines running at the end.
        site: run a site's service too, and call this with its URL before the node starts; None for no site.

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
            # The catalog may have taken a free port, so the node gets its URL.
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
            terminal.show(value, f"up: {there}node at {socket}; Ctrl-C ends {ends}")
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
            raise BackendFailed(f"the {children[-1][0]} was not ready within {READY_WITHIN:.0f} s; see its output")
        time.sleep(0.05)
    return ready.read_text().strip()


def _watch(children: Sequence[tuple[str, subprocess.Popen[bytes]]]) -> None:
    while True:
        _look(children)
        time.sleep(0.2)


def _look(children: Sequence[tuple[str, subprocess.Popen[bytes]]]) -> None:
    for name, child in children:
        if (status := child.poll()) is not None:
            raise BackendFailed(f"the {name} ended with {status}; see its output above")


def _end(_signal: int, _frame: FrameType | None) -> Any:
    raise _Ended


def up(
    context: typer.Context,
    directory: Annotated[
        Path | None,
        typer.Option(help="Directory of all their state; by default the settings' directories.", metavar="DIR"),
    ] = None,
    keep_machines: Annotated[
        bool, typer.Option("--keep-machines", help="Leave machines running at the end instead of destroying them.")
    ] = False,
    with_site: Annotated[
        bool, typer.Option("--site", help="Run a site's service too, and let the node join it.")
    ] = False,
) -> None:
    """Run a catalog and a node on this machine, in one terminal; Ctrl-C ends them."""
    environment = dict(os.environ)
    if directory is not None:
        place = directory.absolute()
        environment |= {
            "PARTITA_CATALOG_DIRECTORY": str(place / "catalog"),
            "PARTITA_NODE_DIRECTORY": str(place / "node"),
            "PARTITA_SITE_DIRECTORY": str(place / "site"),
        }
    catalog = Path(environment.get("PARTITA_CATALOG_DIRECTORY") or terminal.section(context, CatalogSettings).directory)
    node_settings = terminal.section(context, NodeSettings)
    if not node_settings.pinned_root.exists():  # both are ours, so the root needs no other channel
        environment["PARTITA_NODE_TUF_ROOT"] = str(catalog / "tuf" / "root.json")
    site_settings = terminal.section(context, SiteSettings)
    if not site_settings.pinned_root.exists():
        environment["PARTITA_SITE_TUF_ROOT"] = str(catalog / "tuf" / "root.json")
    if not site_settings.policy.exists():
        environment.setdefault("PARTITA_SITE_POLICY", str(terminal.section(context, DeploySettings).policy))
    node = Path(environment.get("PARTITA_NODE_DIRECTORY") or node_settings.directory)

    def join(url: str) -> None:
        """Let the node join the site, unless it belongs to one."""
        from deployer.site.client.discovery import open_site_client
        from deployer.site.client.node_join import CREDENTIALS_DIRECTORY, join_site
        from deployer.site.schema.messages import JoinTokenRequest

        if (node / CREDENTIALS_DIRECTORY).exists():
            return
        place = Path(environment.get("PARTITA_SITE_DIRECTORY") or site_settings.directory)
        with open_site_client(site_settings.model_copy(update={"directory": place, "url": ""}), environment) as asked:
            token = asked.token(JoinTokenRequest()).token
        join_site(node / CREDENTIALS_DIRECTORY, url, token, labels=node_settings.labels)

    given: dict[str, Any] = context.parent.params if context.parent else {}
    sets, config = list(given.get("settings") or ()), given.get("config")
    run_both(environment, sets, config, keep_machines=keep_machines, site=join if with_site else None)
