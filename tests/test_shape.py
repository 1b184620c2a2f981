"""The suite guards the shape of the code as well as what it does: the import law, doors, weight, size of modules."""

import ast
import re
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
PACKAGES = ("signer", "catalog", "stager", "deployer")
DOORS = {
    "gnupg": {"signer.openpgp.gpg"},
    "sqlalchemy": {
        "catalog.db.tables",
        "catalog.db.images",
        "catalog.db.clusters",
        "catalog.db.publications",
        "catalog.access.rule_store",
        "catalog.tuf_repository.store",
        "catalog.db.engine",
        "catalog.db.migrator",
        "catalog.db.migrations",
        "deployer.site.db.migrations",
        "deployer.site.db.tables",
        "deployer.site.db.nodes",
        "deployer.site.db.machines",
        "deployer.site.db.clusters",
        "deployer.site.db.documents",
        "deployer.site.db.prune",
        "deployer.site.db.events",
        "deployer.site.db.contexts",
    },
    "tuf": {"catalog.tuf.metadata", "catalog.tuf.client"},
    "securesystemslib": {"catalog.tuf.metadata"},
    "alembic": {"catalog.db.migrator", "catalog.db.migrations", "deployer.site.db.migrations"},
    "cedarpy": {"deployer.policy.cedar"},
    "asn1crypto": {"deployer.site.auth.voms"},
    "jinja2": {"deployer.site.console.templates"},
    "markupsafe": {"deployer.site.console.templates"},
    "jwt": {"deployer.site.auth.tokens"},
    "httpx2": {
        "catalog.web.connection",
        "stager.swarm.tracker_client",
        "deployer.node.client",
        "deployer.node.membership.site_client",
        "deployer.node.migration.client",
        "deployer.site.auth.jwks",
        "deployer.site.client.client",
    },
    "libtorrent": {"stager.peer.process"},
    "libvirt": {"deployer.hypervisor.libvirt"},
    "libvirt_qemu": {"deployer.hypervisor.qemu_monitor"},
    "boto3": {"deployer.ec2.aws.client"},
    "botocore": {"deployer.ec2.aws.client"},
    "tomli_w": {"deployer.policy.anchors"},
    "prometheus_client": {"catalog.web.metrics"},
    "pycdlib": {"deployer.guest.nocloud_seed"},
    "oslo_utils": {"catalog.disk.inspector_child"},
}


@cache
def modules() -> tuple[Path, ...]:
    """Every module of the four packages."""
    return tuple(sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")))


@cache
def name_of(path: Path) -> str:
    """`catalog/api/app.py` is `catalog.api.app`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def imports(path: Path) -> set[str]:
    """The top-level names that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_import_law() -> None:
    """import-linter's contracts in pyproject.toml hold."""
    ended = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout


@cache
def imported(path: Path) -> set[str]:
    """The modules of ours that a module imports, wherever in it: in functions and for types alone, too."""
    every = {name_of(module) for module in modules()}
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & every) or {node.module}
    return (found & every) - {name_of(path)}


def circle_in(container: str) -> list[str]:
    """Children of a package (sub-packages and modules) that import each other in a circle; none if there is none."""
    start = f"{container}." if container else ""
    graph: dict[str, set[str]] = {}
    for path in modules():
        if (name := name_of(path)).startswith(start):
            others = {other.removeprefix(start).split(".")[0] for other in imported(path) if other.startswith(start)}
            child = name.removeprefix(start).split(".")[0]
            graph.setdefault(child, set()).update(others - {child})
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_import_runs_in_a_circle_at_any_level() -> None:
    """Neither modules nor packages of one parent import each other; which way imports run is in pyproject.toml."""
    containers = ["", *(name_of(path) for path in modules() if path.name == "__init__.py")]
    assert {container: circle for container in containers if (circle := circle_in(container))} == {}
    try:
        TopologicalSorter({name_of(path): imported(path) for path in modules()}).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize("library", sorted(DOORS))
def test_a_foreign_library_has_its_doors_and_no_others(library: str) -> None:
    """Only the doors import the library."""
    doors = DOORS[library]
    used = {name_of(path) for path in modules() if library in imports(path)}
    assert used, f"nothing imports {library} any more: take its row out"
    assert {name for name in used if not any(name == door or name.startswith(f"{door}.") for door in doors)} == set()


def test_no_common_rooms() -> None:
    """There is no common/, core/ or utils/: a thing lives with the noun that it is about."""
    assert [
        name_of(path) for path in modules() if path.stem in {"common", "core", "utils", "util", "helpers", "misc"}
    ] == []


def test_every_module_says_what_it_owns() -> None:
    """Each module with code begins with a docstring."""
    silent = [
        name_of(path)
        for path in modules()
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


MOST_LINES = 400
LONGER, MOST_YET = (
    {
        "catalog.api.app",
        "catalog.cli.catalog",
        "deployer.hypervisor.libvirt",
        "deployer.node.machines.deployment",
        "deployer.node.node",
        "deployer.site.client.client",
        "deployer.site.clusters.controller",
        "stager.cache.cache",
        "stager.swarm.swarm",
    },
    440,
)
"""Modules that are still longer, and what they may have until they are divided. The set is to become empty, and to go."""


def test_no_module_is_long() -> None:
    """What needs more lines is two things."""
    lines = {name_of(path): len(path.read_text().splitlines()) for path in modules()}
    assert {name: n for name, n in lines.items() if n > (MOST_YET if name in LONGER else MOST_LINES)} == {}


MOST_MODULES = 14


def test_no_folder_is_full() -> None:
    """What needs more modules is two packages."""
    counts: dict[str, int] = {}
    for path in modules():
        if path.name != "__init__.py":
            folder = str(path.parent.relative_to(ROOT))
            counts[folder] = counts.get(folder, 0) + 1
    assert {folder: count for folder, count in counts.items() if count > MOST_MODULES} == {}


def has_logic(path: Path) -> bool:
    """Whether a module has a function with a body. One of models, errors or tables alone has nothing to test."""
    return any(
        not all(
            isinstance(one, ast.Expr | ast.Pass) and not isinstance(getattr(one, "value", None), ast.Call)
            for one in node.body
        )
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def test_every_package_is_installed() -> None:
    """A wheel lacks what its list of packages lacks; an editable installation does not show it."""
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    there = {".".join(path.parent.relative_to(ROOT).parts) for path in modules() if path.name == "__init__.py"}
    assert set(listed) == there


def with_logic() -> list[Path]:
    """Every module that needs a test: with logic, and no step of a database, which its package's tests take."""
    return [
        path for path in modules() if path.name != "__init__.py" and "migrations" not in path.parts and has_logic(path)
    ]


def test_every_module_has_a_test_file_or_its_package_says_which_tests_it() -> None:
    """tests/ mirrors the tree: tests/catalog/image/test_address.py tests catalog/image/address.py.

    Where a module has no file of its own, the docstring of its tests' package has its name in backticks and the files that
    test it; names and files that are no longer there fail too.
    """
    lacking, stale, logic = [], [], with_logic()
    for folder in sorted({path.parent.relative_to(ROOT) for path in modules()}):
        said = TESTS / folder / "__init__.py"
        told = (ast.get_docstring(ast.parse(said.read_text())) or "") if said.exists() else ""
        named = set(re.findall(r"`([a-z][a-z0-9_]*)`", told))
        needed = {path.stem for path in logic if path.parent.relative_to(ROOT) == folder}
        own = {stem for stem in needed if (TESTS / folder / f"test_{stem}.py").exists()}
        lacking += [str(folder / f"{stem}.py") for stem in sorted(needed - own - named)]
        stale += [f"{folder}: {stem}" for stem in sorted(named - (needed - own))]
        stale += [f"{folder}: {path}" for path in re.findall(r"tests/[\w/.]+\w", told) if not (ROOT / path).exists()]
    assert lacking == [], "add test_NAME.py, or name the module in the docstring of tests/.../__init__.py"
    assert stale == [], "take out of the docstring what is not there, or has its own test file now"


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("catalog.image.manifest", {"fastapi", "sqlalchemy", "httpx2", "uvicorn"}),
        ("catalog.client.client", {"fastapi", "sqlalchemy", "uvicorn"}),
        ("stager.staging", {"fastapi", "sqlalchemy", "libtorrent", "libvirt"}),
        ("deployer.policy.rules.registry", {"fastapi", "sqlalchemy", "httpx2", "libvirt", "libtorrent"}),
        ("partita", {"boto3", "fastapi", "sqlalchemy", "libvirt", "libtorrent", "uvicorn", "matplotlib"}),
    ],
)
def test_importing_values_loads_no_service(module: str, without: set[str]) -> None:
    """Values, the client and the command line start without the weight of servers and hypervisors."""
    program = f"import sys, {module}; print(*sorted(set(sys.modules) & {without!r}))"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ""


MAX_PARAMETERS = 8


def is_entry_point(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a function's parameters are a command's options (typer) or a route's parts (FastAPI)."""
    annotations = [ast.unparse(each.annotation) for each in function.args.args if each.annotation is not None]
    calls = [each.func for each in function.decorator_list if isinstance(each, ast.Call)]
    return "typer.Context" in annotations or any(
        isinstance(call, ast.Attribute)
        and call.attr in {"command", "operation", "get", "post", "put", "patch", "delete"}
        for call in calls
    )


def test_no_function_takes_more_than_eight_parameters() -> None:
    """What belongs together is one value. Commands and routes have as many as their options and parts."""
    found = []
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or is_entry_point(node):
                continue
            names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            if len([name for name in names if name not in {"self", "cls"}]) > MAX_PARAMETERS:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert found == []
