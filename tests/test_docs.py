"""The documentation: its commands run, its links and module names lead somewhere, its decisions have one form.

Each document's ```sh blocks are run in order, as one script in a directory of its own.

A line that ends in `&` starts a service, by the installed program; the script goes on when it has said that it is ready.
The other commands are run by forked processes, which need not import everything anew.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from partita import SECTIONS
from tests.support.commands import partita_on_path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "policies" / "README.md"]
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)

PRELUDE = """\
set -eu
ready() {  # LOG: until the service that writes there has said so
  for _ in $(seq 300); do grep -q ready "$1" 2>/dev/null && return 0; sleep 0.1; done
  echo "not ready:"; cat "$1"; return 1
}
"""


def script(document: Path) -> str:
    """The commands of a document, with every service started behind the script's back."""
    lines = []
    for number, line in enumerate("".join(BLOCK.findall(document.read_text())).splitlines()):
        bare = line.split(" #")[0].rstrip()
        if bare.endswith("&"):
            lines.append(
                f"PATH=$INSTALLED {bare.removesuffix('&')} >service{number}.log 2>&1 & echo $! >>services; ready service{number}.log"
            )
        else:
            lines.append(line)
    return PRELUDE + "\n".join(lines) + "\n"


def free_port() -> int:
    """A port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


WITH_COMMANDS = [document for document in DOCUMENTS if BLOCK.search(document.read_text())]


@pytest.mark.guest
@pytest.mark.parametrize("document", WITH_COMMANDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_of_a_document(document: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The script ends without an error, and what it started ends with it."""
    place = Path(tmp_path_factory.mktemp("docs"))
    for name in ("examples", "policies"):
        (place / name).symlink_to(ROOT / name)
    port = free_port()
    (place / "settings.toml").write_text(
        f"[signer]\nhome = '{place}/keys'\n"
        f"[catalog]\ndirectory = '{place}/catalog'\nlisten = '127.0.0.1:{port}'\ntuf_bits = 6\nurl = 'http://127.0.0.1:{port}'\n"
        f"[node]\ndirectory = '{place}/node'\ncatalog = 'http://127.0.0.1:{port}'\n"
        f"[site]\ndirectory = '{place}/site'\ncatalog = 'http://127.0.0.1:{port}'\nlisten = '127.0.0.1:0'\n"
    )
    installed = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {
        "HOME": str(place),
        "LANG": "C.UTF-8",
        "INSTALLED": installed,
        "PYTHONPATH": str(ROOT),
        "PARTITA_CONFIG": str(place / "settings.toml"),
    }
    log = place / "script.log"
    with log.open("wb") as output, partita_on_path() as commands:
        environment["PATH"] = f"{commands}:{installed}"
        process = subprocess.Popen(
            ["bash", "-c", script(document)],
            cwd=place,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            code = process.wait(200)
        finally:
            _end_services(place)
            if (agent := place / ".gnupg").exists():
                subprocess.run(["gpgconf", "--homedir", agent, "--kill", "all"], check=True)
    shutil.rmtree(place / "catalog", ignore_errors=True)
    assert code == 0, log.read_text()[-4000:]


def _end_services(place: Path) -> None:
    """End what the script started, node services with their machines first."""
    if not (place / "services").exists():
        return
    environment = os.environ | {"PARTITA_CONFIG": str(place / "settings.toml"), "PYTHONPATH": str(ROOT)}
    subprocess.run(
        [sys.executable, "-m", "partita", "machine", "destroy", "--all"],
        env=environment,
        capture_output=True,
        check=False,
    )
    for pid in (place / "services").read_text().split():
        try:
            os.kill(int(pid), signal.SIGTERM)
        except ProcessLookupError:
            continue


LINK = re.compile(r"\]\(([^)\s]+)\)")
ANCHOR = re.compile(r'<a id="([^"]+)">')
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
SOURCE = re.compile(
    r"(?<![\w/.])(?:signer|catalog|stager|deployer|tests|docs|benchmarks|examples|policies)/[\w/.-]*\.\w+"
)
MODULE = re.compile(r"`((?:signer|catalog|stager|deployer)(?:\.[a-z_0-9]+)+)(?:\(\))?`")
ALL_DOCUMENTS = sorted({*DOCUMENTS, *ROOT.glob("*.md")})


def anchors(document: Path) -> set[str]:
    """The fragments by which other pages can link into a document, as GitHub makes them from its headings."""
    text = document.read_text()
    headings = (re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in HEADING.findall(text))
    return {*headings, *ANCHOR.findall(text)}


@pytest.mark.parametrize("document", ALL_DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_names_in_a_document_lead_somewhere(document: Path) -> None:
    """Relative links, paths of the checkout and module names exist; a name of a setting counts as well."""
    text = document.read_text()
    prose = CODE.sub("", text)
    broken = []
    for link in LINK.findall(prose):
        if "://" in link or link.startswith("000"):
            continue
        name, _, fragment = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        if not target.exists() or (fragment and target.suffix == ".md" and fragment not in anchors(target)):
            broken.append(link)
    broken += [path for path in SOURCE.findall(prose) if not (ROOT / path).exists()]
    settings = {f"{section}.{field}" for section, model in SECTIONS.items() for field in model.model_fields}
    broken += [name for name in MODULE.findall(text) if name not in settings and not module_exists(name)]
    assert broken == []


def module_exists(name: str) -> bool:
    """Whether a dotted name is a package, a module, or something that a module defines or imports."""
    path = ROOT.joinpath(*name.split("."))
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    module, word = path.parent.with_suffix(".py"), path.name
    return module.is_file() and re.search(rf"\b{word}\b", module.read_text()) is not None


def test_pages_named_in_the_code_exist() -> None:
    """A docstring that names a page of docs/ or policies/ names one that is there."""
    sources = [
        path for package in ("signer", "catalog", "stager", "deployer") for path in (ROOT / package).rglob("*.py")
    ]
    named = {page for path in sources for page in re.findall(r"(?:docs|policies)/[\w/.-]+\.md", path.read_text())}
    assert named
    assert [page for page in sorted(named) if not (ROOT / page).exists()] == []


def test_decisions_have_one_form_and_an_index() -> None:
    """Numbers without gaps; the title's number is the file's; four sections in one order; a row in the index."""
    folder = ROOT / "docs" / "adr"
    pages = sorted(folder.glob("[0-9]*.md"))
    index = (folder / "README.md").read_text()
    for number, page in enumerate(pages, 1):
        text = page.read_text()
        title = re.match(r"# (\d+) (.+)\n", text)
        assert title, page.name
        assert (int(page.name[:4]), int(title[1])) == (number, number), page.name
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Status", "Context", "Decision", "Consequences"], (
            page.name
        )
        assert f"| {number} | [{title[2]}]({page.name}) |" in index, page.name


WIDTH = 100
ODD = re.compile(
    r"\b(?:whoever|whomever|somebody|nobody|anybody|everybody)\b"
    r"|(?<!there )\b(?:is|are|was|were) (?:no|none)\b(?! longer| later| larger| better)"
    r"|\b(?:behaviour|colour|neighbour|favour|armour|licence|catalogue|judgement|artefact|afterwards|towards|for ever)s?\b"
    r"|\b(?:organ|recogn|author|serial|synchron|initial|normal|optim|util)is(?:e|ed|es|ing|ation)\b",
    re.IGNORECASE,
)
"""Words and phrases that are not plain American English; the glossary lists some of them as words not to use."""


@pytest.mark.parametrize("document", ALL_DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_has_one_width_and_plain_words(document: Path) -> None:
    """Lines outside tables and code have at most 100 characters, but for a word that is longer."""
    lines = CODE.sub("", document.read_text()).splitlines()
    prose = [line for line in lines if not line.startswith("|")]
    assert [line for line in prose if len(line) > WIDTH and " " in line.strip()] == []
    words = lines if document.name != "glossary.md" else prose
    assert [line for line in words if ODD.search(line)] == []


def test_the_architecture_lists_all_rooms_in_the_order_of_the_contracts() -> None:
    """The first column of its tables, from top to bottom, is each container's layers from the lowest to the highest."""
    rows = re.findall(r"^\| (`.+?) \|", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`([a-z_0-9.]+)`", row)]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    for contract in contracts:
        for container in set(contract.get("containers", ())) - {"deployer.cli"}:
            rooms = [f"{container}.{room}" for layer in contract["layers"] for room in layer.split(" | ")]
            side_by_side = [
                f"{container}.{room}" for layer in contract["layers"] if "|" in layer for room in layer.split(" | ")
            ]
            described = [name for name in dict.fromkeys(listed) if name in rooms and name not in side_by_side]
            assert described == [room for room in reversed(rooms) if room not in side_by_side], container
            assert set(side_by_side) <= set(listed)
