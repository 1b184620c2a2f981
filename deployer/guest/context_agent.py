"""What a seed carries for contextualization: how the broker is reached, and the agent that does it, ready to run.

A guest with cloud-init runs the agent as vendor-data: a script of its own there, since lists in a user's cloud-config
replace those of the vendor's. A guest without runs it from the seed: `sh partita-context.sh`. It is the very same file.
"""

import base64
import binascii
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from functools import cache
from importlib.resources import files

from catalog.errors import Misused
from deployer.machine.user_data import check_user_data
from deployer.protocol.desired_state import BrokerAccess

PARAMETERS = "partita-context"
AGENT = "partita-context.sh"

MAX_VENDOR_DATA = 64 << 10
"""Bytes of a site's own vendor-data."""


def seed_extras(
    context: BrokerAccess | None, machine: str, vendor_data: bytes | str | None = None
) -> tuple[dict[str, bytes], bytes | None]:
    """The files that a seed gets beside its own, and its vendor-data.

    Args:
        context: how the machine reaches its broker; None for none.
        machine: its UUID.
        vendor_data: what the site adds to the guest: a cloud-config or a script, as bytes or in base64.

    Returns:
        Files by name, and vendor-data or None.

    Raises:
        Misused, UserDataRefused: the site's vendor-data is not of a form that a guest reads.
    """
    own = _checked(vendor_data) if vendor_data else None
    if context is None:
        return {}, own
    lines = {
        "url": context.url.rstrip("/"),
        "machine": machine,
        "secret": context.secret,
        "fingerprint": context.fingerprint,
    }
    if any(not value.isprintable() for value in lines.values()):
        raise Misused("the context of a machine contains a line break or control character")
    parameters = "".join(f"{name}={value}\n" for name, value in lines.items()).encode()
    return {PARAMETERS: parameters, AGENT: agent_script()}, agent_script() if own is None else _both(
        own, agent_script()
    )


@cache
def agent_script() -> bytes:
    """The agent: a script for any POSIX shell."""
    return (files("deployer.guest") / "partita-context").read_bytes()


def _checked(vendor_data: bytes | str) -> bytes:
    try:
        data = base64.b64decode(vendor_data, validate=True) if isinstance(vendor_data, str) else vendor_data
    except (binascii.Error, ValueError) as exc:
        raise Misused("the site's vendor-data is not base64") from exc
    if len(data) > MAX_VENDOR_DATA:
        raise Misused(f"the site's vendor-data has {len(data)} bytes, more than the {MAX_VENDOR_DATA} allowed")
    if check_user_data(data) not in {"cloud-config", "script"}:
        raise Misused("the site's vendor-data is neither a cloud-config nor a script")
    return data


def _both(own: bytes, script: bytes) -> bytes:
    """A MIME message of both, as cloud-init reads it. The same input gives the same bytes."""
    message = MIMEMultipart(boundary="==partita==")
    for data, name in ((own, "site"), (script, AGENT)):
        kind = "cloud-config" if data.startswith(b"#cloud-config") else "x-shellscript"
        part = MIMEText(data.decode("utf-8"), kind, "utf-8")
        part.add_header("Content-Disposition", "attachment", filename=name)
        message.attach(part)
    return message.as_bytes()
