"""The command that reads a StratusLab policy into ours."""

from pathlib import Path
from typing import Annotated

import typer

from catalog.errors import Misused
from deployer.policy.stratuslab import MAX_FILE, translate_policy
from signer.openpgp.gpg import MAX_KEY
from signer.runtime import terminal
from signer.runtime.terminal import Json
from signer.verification.endorsements import DEFAULT_ROLE


def import_stratuslab(
    file: Annotated[Path, typer.Argument(help="A StratusLab policy.cfg.")],
    vo: Annotated[str, typer.Option(help="The VO that its endorsers vouch for here.")],
    role: Annotated[str, typer.Option(help="In what function.")] = DEFAULT_ROLE,
    keys: Annotated[
        list[str] | None, typer.Option("--key", metavar="EMAIL=FILE", help="An endorser's public key; repeatable.")
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option("--image", metavar="OLD=NEW", help="What an identifier or checksum became here; repeatable."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print a policy of ours that allows no more than a StratusLab policy does."""
    given = {email: _read(Path(name), MAX_KEY) for email, name in _pairs(keys, "--key EMAIL=FILE").items()}
    made = translate_policy(_read(file, MAX_FILE), str(file), vo, role, given, _pairs(images, "--image OLD=NEW"))
    for note in made.notes:
        terminal.say(note)
    terminal.show({"policy": made.text, "notes": list(made.notes)}, made.text, as_json=as_json)


def _pairs(texts: list[str] | None, form: str) -> dict[str, str]:
    found = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not (name and equals and value) or name in found:
            raise Misused(f"{text!r} is not {form}, or is listed twice")
        found[name] = value
    return found


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(limit + 1)
    except OSError as exc:
        raise Misused(f"{path}: cannot be read ({exc.strerror})") from exc
