"""Commands that deploy: `deploy`, `machine`, `node` and `up`. Wiring only; the work is done by the node's service."""

import base64
import json as json_text
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

from catalog.settings import CatalogSettings
from deployer import cli_machine, cli_site
from deployer.amounts import parse_duration, parse_size
from deployer.cli_machine import Name, amount, blank_of, brief
from deployer.cli_staging import add_commands, staging_text, watch_staging
from deployer.errors import Misused, Refused
from deployer.machines import MachineRecord
from deployer.node_client import NodeClient
from deployer.places import MAX_SOCKET, short_place
from deployer.serial import readable
from deployer.settings import DeploySettings
from deployer.site.settings import SiteSettings
from deployer.userdata import MAX_USER_DATA
from deployer.wire import Deployed, NodeStatus, Order, Step
from signer import terminal
from signer.documents import validate
from signer.logs import LogSettings, configure
from signer.terminal import Json
from stager.cli import cache_app
from stager.settings import NodeSettings

machine_app = typer.Typer(no_args_is_help=True, help="Machines: look at them, change them, end them.")
node_app = typer.Typer(no_args_is_help=True, help="The node's service: it stages, boots and keeps machines.")
node_app.add_typer(cache_app, name="cache")


def node_client(context: typer.Context) -> NodeClient:
    """A client of the node that the settings name."""
    settings, deploy_settings = terminal.section(context, NodeSettings), terminal.section(context, DeploySettings)
    return NodeClient(deploy_settings.socket or short_place(settings.directory, "node.sock", MAX_SOCKET))


add_commands(node_app, node_client)
cli_machine.add_commands(machine_app, node_client)
cli_site.add_commands(node_client)


def deploy(
    context: typer.Context,
    image: Annotated[str, typer.Argument(help="An image ID, VO/NAME@VERSION, or VO/NAME for its newest version.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many machines.")] = 1,
    memory: Annotated[
        str | None, typer.Option(help="Memory of each, such as 2GiB; what the image needs if not given.")
    ] = None,
    cores: Annotated[int | None, typer.Option(min=1, help="Cores of each; what the image needs if not given.")] = None,
    lifetime: Annotated[
        str | None, typer.Option(help="How long they live, such as 12h; the node's default if not given.")
    ] = None,
    hostname: Annotated[
        str | None, typer.Option(help="Host name; with several machines a number is put after it.")
    ] = None,
    network: Annotated[str | None, typer.Option(help="none, user, network:NAME or bridge:NAME.")] = None,
    user_data: Annotated[
        Path | None, typer.Option(help="What the guest's first boot runs: cloud-config or a script.", metavar="FILE")
    ] = None,
    public_key: Annotated[
        list[Path] | None, typer.Option(help="An OpenSSH public key for the guest's user.", metavar="FILE")
    ] = None,
    blank: Annotated[
        list[str] | None,
        typer.Option(help="An extra disk, made on the node.", metavar="SIZE[:FILESYSTEM[:LABEL]]"),
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option(help="How far its memory may grow while it runs; not at all if not given.")
    ] = None,
    max_cores: Annotated[
        int | None, typer.Option(min=1, help="How far its cores may; not at all if not given.")
    ] = None,
    verify: Annotated[
        str, typer.Option(help="Right before boot: look at a sample of the contents, or hash them in full.")
    ] = "sample",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what the policy decides.")] = False,
    site: Annotated[
        str | None,
        typer.Option(help="Order at a site instead of on this node: its URL, or `here` for the settings' one."),
    ] = None,
    json: Json = False,
) -> None:
    """Run machines of an image, if the site's policy accepts it."""
    order = _order(
        image=image,
        count=count,
        memory=_amount(memory, parse_size, "--memory"),
        cores=cores,
        lifetime=_amount(lifetime, parse_duration, "--lifetime"),
        hostname=hostname,
        network=network,
        user_data=_user_data(user_data),
        public_keys=[_text_file(path).strip() for path in public_key or ()],
        blanks=[blank_of(text).model_dump(mode="json") for text in blank or ()],
        granted_memory=_amount(max_memory, parse_size, "--max-memory"),
        granted_cores=max_cores,
        verify=verify,
    )
    if site is not None:
        from deployer.site.cli_deployment import order_at

        order_at(context, order, "" if site == "here" else site, dry_run=dry_run, json=json)
        return
    with node_client(context) as node:
        if dry_run:
            decision = node.decide(order)
            terminal.show(decision, decision_text(decision), as_json=json)
            if not decision["accepted"]:
                raise typer.Exit(Refused.exit_code)
            return
        try:
            with _watch() as watch:
                result = node.deploy(order, watch)
        except Refused as refused:
            if refused.decision is not None:
                terminal.show(dict(refused.decision), decision_text(dict(refused.decision)), as_json=json)
            raise
    terminal.show(result.model_dump(mode="json", exclude_none=True), _deployed(result), as_json=json)


@machine_app.command("list")
def machine_list(context: typer.Context, json: Json = False) -> None:
    """List the node's machines, the oldest first."""
    with node_client(context) as node:
        machines = node.machines()
    terminal.show([brief(record) for record in machines], _table(machines), as_json=json)


@machine_app.command("show")
def machine_show(context: typer.Context, name: Name, json: Json = False) -> None:
    """Show all that the node knows of a machine."""
    with node_client(context) as node:
        record = node.machine(name)
    value = record.model_dump(mode="json", exclude_none=True)
    rows = [(key, json_text.dumps(entry) if isinstance(entry, dict) else entry) for key, entry in value.items()]
    terminal.show(value, terminal.table(("FIELD", "VALUE"), rows), as_json=json)


@machine_app.command("console")
def machine_console(
    context: typer.Context,
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the machine has ended.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="The guest's very bytes, terminal control included.")] = False,
    json: Json = False,
) -> None:
    """Print what a machine's guest wrote to its console."""
    with node_client(context) as node:
        if json:
            text = b"".join(node.console(name)).decode(errors="replace")
            terminal.show({"console": text}, "", as_json=True)
            return
        for chunk in node.console(name, follow=follow):
            if raw:
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()
            else:
                sys.stdout.write(readable(chunk))
                sys.stdout.flush()


@machine_app.command("shutdown")
def machine_shutdown(
    context: typer.Context,
    name: Name,
    wait: Annotated[bool, typer.Option("--wait", help="Until the guest has powered off.")] = False,
    timeout: Annotated[int, typer.Option(help="Seconds to wait at most.", min=1)] = 60,
    json: Json = False,
) -> None:
    """Ask a machine's guest to power off."""
    with node_client(context) as node:
        record = node.shutdown(name, float(timeout) if wait else 0.0)
    done = record.state.value if wait else "asked to power off"
    terminal.show(brief(record), f"{record.name}: {done}", as_json=json)
    if wait and record.state.value == "running":
        raise typer.Exit(1)


@machine_app.command("destroy")
def machine_destroy(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(help="Machines, by UUID, its beginning, or name.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All machines of the node.")] = False,
    json: Json = False,
) -> None:
    """End machines now, and remove all that is left of them, consoles included."""
    if bool(names) == every:
        raise Misused("name the machines to destroy, or give --all")
    with node_client(context) as node:
        wanted = [record.uuid for record in node.machines()] if every else names or []
        gone = [node.destroy(name) for name in wanted]
    text = "\n".join(f"{record.name}: destroyed" for record in gone) or "there is no machine"
    terminal.show([brief(record) for record in gone], text, as_json=json)


@node_app.command("serve")
def node_serve(
    context: typer.Context,
    ready_file: Annotated[
        Path | None, typer.Option(help="Write the socket's path here when the node answers.", metavar="FILE")
    ] = None,
    end_machines: Annotated[
        bool, typer.Option("--end-machines", help="Destroy all machines when the service ends; else they go on.")
    ] = False,
    json: Json = False,
) -> None:
    """Run the node's service until it is told to end."""
    from deployer.node_serving import serve  # loads libvirt and all four packages: only here

    configure(terminal.section(context, LogSettings))

    def ready(socket: Path, status: NodeStatus) -> None:
        text = f"node ready at {socket}; {status.hypervisor}; {status.accelerator.reason}"
        if status.policy_problem:
            text += f"\n{status.policy_problem}"
        value = {"socket": str(socket)} | status.model_dump(mode="json", exclude_none=True)
        terminal.show(value, text, as_json=json)
        if ready_file is not None:
            fresh = ready_file.with_name(ready_file.name + ".new")
            fresh.write_text(f"{socket}\n")
            fresh.replace(ready_file)

    serve(
        terminal.section(context, NodeSettings),
        terminal.section(context, DeploySettings),
        ready,
        end_machines=end_machines,
    )


@node_app.command("trust-root")
def node_trust_root(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="The catalog's root.json, got from its operator by a way that you trust.")
    ],
    json: Json = False,
) -> None:
    """Pin the root that says what is current; the node believes its catalog by nothing else. A running node takes note."""
    from catalog.trusted import pin  # loads the TUF library: only here

    settings = terminal.section(context, NodeSettings)
    try:
        data = file.read_bytes()
    except OSError as exc:
        raise Misused(f"{file}: cannot be read: {exc.strerror}") from exc
    digest = pin(settings.freshness / "root.json", data)
    text = f"pinned; compare this with the catalog's operator: SHA-256 {digest}"
    terminal.show({"root": str(settings.freshness / "root.json"), "sha256": digest}, text, as_json=json)


@node_app.command("status")
def node_status(
    context: typer.Context,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show what is arriving, again and again, until nothing is.")
    ] = False,
    json: Json = False,
) -> None:
    """Show how the node is doing: what it runs on, by which policy, how many machines, and what is arriving."""
    with node_client(context) as node:
        if watch:
            watch_staging(node, as_json=json)
        status, staging = node.status(), node.staging()
    rows = [
        ("node", status.node),
        ("directory", status.directory),
        ("catalog", status.catalog),
        ("current", status.fresh_problem or f"known until {status.fresh_until or 'the first order'}"),
        ("policy", f"{status.policy} ({status.policy_digest})" if status.policy_digest else "none is in force"),
        *([("", f"not in force as its files are: {status.policy_problem}")] if status.policy_problem else []),
        *([("shadow", status.shadow_digest)] if status.shadow_digest else []),
        ("audit log", status.audit),
        ("hypervisor", status.hypervisor),
        ("accelerator", status.accelerator.reason),
        *([("site", status.site_problem or status.site)] if status.site_problem or status.site else []),
        ("machines", ", ".join(f"{count} {state}" for state, count in status.machines.items()) or "none"),
        *staging_text(staging),
    ]
    value = status.model_dump(mode="json", exclude_none=True) | {
        "staging": staging.model_dump(mode="json", exclude_none=True)
    }
    terminal.show(value, terminal.table(("WHAT", "IS"), rows), as_json=json)


def up(
    context: typer.Context,
    directory: Annotated[
        Path | None, typer.Option(help="Where both keep their state; the settings' places if not given.", metavar="DIR")
    ] = None,
    keep_machines: Annotated[
        bool, typer.Option("--keep-machines", help="Leave machines running at the end; else they are destroyed.")
    ] = False,
    with_site: Annotated[bool, typer.Option("--site", help="Run a site's service too; the node joins it.")] = False,
    json: Json = False,
) -> None:
    """Run a catalog and a node here, in one terminal; Ctrl-C ends both."""
    from deployer.up import run_both

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
    if not node_settings.pinned_root.exists():  # both are ours: the root goes from hand to hand
        environment["PARTITA_NODE_TUF_ROOT"] = str(catalog / "tuf" / "root.json")
    site_settings = terminal.section(context, SiteSettings)
    if not site_settings.pinned_root.exists():
        environment["PARTITA_SITE_TUF_ROOT"] = str(catalog / "tuf" / "root.json")
    if not site_settings.policy.exists():
        environment.setdefault("PARTITA_SITE_POLICY", str(terminal.section(context, DeploySettings).policy))
    node = Path(environment.get("PARTITA_NODE_DIRECTORY") or node_settings.directory)

    def join(url: str) -> None:
        """The node joins the site of the same terminal, unless it belongs to one."""
        from deployer.site.entering import PLACE, enter
        from deployer.site.reaching import reach
        from deployer.site.wire import TokenRequest

        if (node / PLACE).exists():
            return
        place = Path(environment.get("PARTITA_SITE_DIRECTORY") or site_settings.directory)
        with reach(site_settings.model_copy(update={"directory": place, "url": ""}), environment) as asked:
            token = asked.token(TokenRequest()).token
        enter(node / PLACE, url, token, labels=node_settings.labels)

    given: dict[str, Any] = context.parent.params if context.parent else {}
    sets, config = list(given.get("settings") or ()), given.get("config")
    run_both(environment, sets, config, keep_machines=keep_machines, as_json=json, site=join if with_site else None)


def decision_text(decision: dict[str, Any]) -> Group:
    """A decision for people: every rule with its verdict, and what would have to change."""
    rows = [
        ("passed" if rule["passed"] else "FAILED", rule["name"], rule["reason"], rule.get("change", ""))
        for rule in decision["rules"]
    ]
    verdict = "accepted" if decision["accepted"] else "refused"
    head = Text(terminal.printable(f"{decision['title']}: {verdict}"))
    return Group(head, terminal.table(("VERDICT", "RULE", "REASON", "WHAT WOULD HAVE TO CHANGE"), rows))


class _watch:  # noqa: N801 - used as a function
    """Shows the steps of a deployment on standard error, where that is a terminal; silent elsewhere."""

    def __enter__(self) -> Callable[[Step], None]:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._bars = Progress(*columns, console=terminal.err, transient=True, disable=not terminal.err.is_terminal)
        self._bars.start()
        self._tasks: dict[str, TaskID] = {}
        return self._step

    def __exit__(self, *exc: object) -> None:
        self._bars.stop()

    def _step(self, step: Step) -> None:
        machine = step.machine or ""
        if step.step == "staging":
            if machine not in self._tasks:
                self._tasks[machine] = self._bars.add_task(f"staging for {machine}", total=step.total)
            self._bars.update(self._tasks[machine], completed=step.done or 0)
            return
        if machine in self._tasks:
            self._bars.remove_task(self._tasks.pop(machine))
        if step.text:
            where = f"{machine}: " if machine else ""
            terminal.say(f"{step.milliseconds / 1000:6.2f} s  {where}{step.text}")


def _order(**values: Any) -> Order:
    return validate(Order, {name: value for name, value in values.items() if value is not None}, "order")


def _amount(text: str | None, parse: Callable[[object], int], option: str) -> int | None:
    return None if text is None else amount(text, parse, option)


def _text_file(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise Misused(f"{path}: cannot be read: {exc}") from exc


def _user_data(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        with path.open("rb") as file:
            data = file.read(MAX_USER_DATA + 1)
    except OSError as exc:
        raise Misused(f"{path}: cannot be read: {exc.strerror}") from exc
    return base64.b64encode(data).decode()


def _table(machines: list[MachineRecord]) -> object:
    rows = [
        (
            record.uuid[:8],
            record.name,
            record.state.value,
            record.title,
            f"{record.cores} x {terminal.size(record.memory)}",
            record.ends.strftime("%Y-%m-%d %H:%M UTC"),
            record.reason,
        )
        for record in machines
    ]
    return terminal.table(("UUID", "NAME", "STATE", "IMAGE", "SIZE", "ENDS", "REASON"), rows) if rows else "no machines"


def _deployed(result: Deployed) -> Group:
    lines = [Text(terminal.printable(f"{result.title} ({result.image_id}) runs; {result.accelerator.reason}"))]
    rows = [
        (
            record.uuid[:8],
            record.name,
            record.hostname,
            terminal.size(record.from_network),
            terminal.size(record.from_cache),
            terminal.size(record.written),
            record.ends.strftime("%Y-%m-%d %H:%M UTC"),
        )
        for record in result.machines
    ]
    columns = ("UUID", "NAME", "HOST NAME", "FROM NETWORK", "FROM CACHE", "WRITTEN", "ENDS")
    return Group(*lines, terminal.table(columns, rows))
