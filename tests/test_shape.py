"""The suite guards the shape of the code as well as what it does: the import law, doors, weight, size of modules."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
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
        "catalog.db.migrations",
        "deployer.site.db.engine",
        "deployer.site.db.tables",
        "deployer.site.db.nodes",
        "deployer.site.db.machines",
        "deployer.site.db.clusters",
        "deployer.site.db.audit",
        "deployer.site.db.prune",
        "deployer.site.db.events",
        "deployer.site.db.contexts",
        "deployer.site.db.migrations",
    },
    "tuf": {"catalog.tuf.metadata", "catalog.tuf.client"},
    "securesystemslib": {"catalog.tuf.metadata"},
    "alembic": {"catalog.db.engine", "catalog.db.migrations", "deployer.site.db.migrations"},
    "cedarpy": {"deployer.policy.cedar"},
    "asn1crypto": {"deployer.site.auth.voms"},
    "jinja2": {"deployer.site.console.templates"},
    "markupsafe": {"deployer.site.console.templates"},
    "jwt": {"deployer.site.auth.tokens"},
    "httpx": {
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
    "prometheus_client": {"catalog.web.metrics"},
    "pycdlib": {"deployer.guest.nocloud_seed"},
    "oslo_utils": {"catalog.disk.inspector_child"},
}


def modules() -> list[Path]:
    """Every module of the four packages."""
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


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


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("catalog.image.manifest", {"fastapi", "sqlalchemy", "httpx", "uvicorn"}),
        ("catalog.client.client", {"fastapi", "sqlalchemy", "uvicorn"}),
        ("stager.staging", {"fastapi", "sqlalchemy", "libtorrent", "libvirt"}),
        ("deployer.policy.rules", {"fastapi", "sqlalchemy", "httpx", "libvirt", "libtorrent"}),
        ("partita", {"boto3", "fastapi", "sqlalchemy", "libvirt", "libtorrent", "uvicorn", "matplotlib"}),
    ],
)
def test_importing_values_loads_no_service(module: str, without: set[str]) -> None:
    """Values, the client and the command line start without the weight of servers and hypervisors."""
    program = f"import sys, {module}; print(*sorted(set(sys.modules) & {without!r}))"
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == ""
