"""The user-data of a guest at EC2, which replaces the NoCloud seed of a node, within EC2's 16 KiB. Pure.

EC2 has one user-data and no vendor-data, host name or keys of ours, so it becomes a MIME message: the end of the machine's
time as a boot hook, blank disks to be made, the host name and keys, the site's vendor-data, and last the requester's
user-data, unchanged. The site's values win over the requester's; lists of both are joined (cloud-init, "Merging user-data
sections"). The boot hook runs at every boot and ends the guest when its time is over, even without the site's service; with
InstanceInitiatedShutdownBehavior=terminate that ends the machine. It reads the end from the instance's tags (IMDSv2), so
that an extension reaches it; a guest's root can stop it, and then the site ends the machine from outside.
"""

import base64
import email
import gzip
import hashlib
from collections.abc import Sequence
from email.message import Message
from email.mime.multipart import MIMEMultipart
from email.mime.nonmultipart import MIMENonMultipart
from typing import Any, Final

import yaml

from deployer.ec2.aws.tags import END_TAG
from deployer.ec2.model.boot_mapping import Volume
from deployer.errors import UserDataRefused
from deployer.guest.context_agent import AGENT, PARAMETERS, seed_extras
from deployer.machine.spec import check_hostname
from deployer.machine.user_data import MAX_USER_DATA, UserDataKind, check_user_data
from deployer.protocol.desired_state import DesiredMachine

METADATA: Final = "http://169.254.169.254/latest"
"""The instance metadata service (EC2 User Guide, "Use IMDS")."""

MERGE: Final = "list(append)+dict(no_replace,recurse_list)+str()"

_SUBTYPES: Final[dict[UserDataKind, str]] = {
    "cloud-config": "cloud-config",
    "script": "x-shellscript",
    "cloud-config-archive": "cloud-config-archive",
    "cloud-config-jsonp": "cloud-config-jsonp",
    "jinja-template": "jinja2",
    "include": "x-include-url",
    "boothook": "cloud-boothook",
    "part-handler": "part-handler",
    "upstart-job": "upstart-job",
}
"""cloud-init's MIME types, all of them text/."""

TIMER: Final = """\
#!/bin/sh
# Ends this machine when its time is over. The tag TAG holds the end; it moves when the time is extended.
ends=${1} metadata=${2}
look() {
  python3 - "$metadata" <<'LOOK'
import datetime, sys, urllib.request
base = sys.argv[1]
def ask(path, method, headers):
    request = urllib.request.Request(base + path, method=method, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    return opener.open(request, timeout=5).read(1000).decode()
try:
    token = ask("/api/token", "PUT", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    told = ask("/meta-data/tags/instance/TAG", "GET", {"X-aws-ec2-metadata-token": token})
    print(int(datetime.datetime.fromisoformat(told.strip().replace("Z", "+00:00")).timestamp()))
except (OSError, ValueError):
    pass
LOOK
}
while :; do
  told=$(look)
  [ -n "$told" ] && ends=$told
  left=$((ends - $(date +%s)))
  [ "$left" -le 0 ] && break
  [ "$left" -gt 60 ] && left=60
  sleep "$left"
done
shutdown -h now || poweroff -f
""".replace("TAG", END_TAG)
"""Looks once a minute: often enough for an extension, too rare to be noticed."""

BLANKS: Final = """\
#!/bin/sh
# Makes the blank disks, once in this machine's life. They are alike until they are made, so any of the right size will do.
made=${PARTITA_STATE:-/var/lib/partita}/blanks-made
[ -e "$made" ] && exit 0
unused() {
  lsblk -bdnpr -o NAME,SIZE,TYPE | while read -r name size type; do
    [ "$type" = disk ] || [ "$type" = loop ] || continue
    [ "$size" = "$1" ] || continue
    [ "$(lsblk -nr -o NAME "$name" | wc -l)" = 1 ] || continue
    wipefs -n "$name" 2>/dev/null | grep -q . && continue
    echo "$name"; break
  done
}
make() {
  case $2 in
    ext4) mkfs.ext4 -q -F ${3:+-L "$3"} "$1" ;;
    xfs) mkfs.xfs -q -f ${3:+-L "$3"} "$1" ;;
    vfat) mkfs.vfat ${3:+-n "$3"} "$1" >/dev/null ;;
    swap) mkswap ${3:+-L "$3"} "$1" >/dev/null ;;
  esac
}
failed=0
while read -r size filesystem label; do
  device=$(unused "$size")
  if [ -z "$device" ] || ! make "$device" "$filesystem" "$label"; then
    echo "partita: no $filesystem of $size bytes could be made" >&2; failed=1
  fi
done <<'WANTED'
{wanted}
WANTED
[ $failed = 0 ] && mkdir -p "${made%/*}" && : > "$made"
"""

_AGENT = """
mkdir -p -m 0700 /run/partita/seed
(umask 077; echo {parameters} | base64 -d > /run/partita/seed/partita-context)
PARTITA_SEED=/run/partita/seed; export PARTITA_SEED
"""

_HOOK = """\
#!/bin/sh
mkdir -p -m 0700 /run/partita
cat > /run/partita/ends <<'PARTITA'
{timer}PARTITA
if command -v systemd-run >/dev/null; then
  systemd-run --quiet --no-block --collect --unit=partita-ends sh /run/partita/ends {ends} {metadata}
else
  setsid sh /run/partita/ends {ends} {metadata} </dev/null >/dev/null 2>&1 &
fi
{blanks}"""


def build_user_data(machine: DesiredMachine, volumes: Sequence[Volume]) -> bytes:
    """The user-data of a machine for RunInstances.

    Args:
        machine: as it should be.
        volumes: all of them; the blanks among them are made in the guest.

    Raises:
        UserDataRefused: the requester's user-data has an unsupported format, or the whole is too large.
    """
    check_hostname(machine.hostname)
    config: dict[str, Any] = {"hostname": machine.hostname, "preserve_hostname": False}
    if machine.public_keys:
        config["ssh_authorized_keys"] = [key.strip() for key in machine.public_keys]
    text = yaml.safe_dump(config, sort_keys=False, width=float("inf"), encoding="utf-8")
    parts = [
        _part("cloud-boothook", b"#cloud-boothook\n" + boot_hook(machine, volumes).encode()),
        _part("cloud-config", b"#cloud-config\n" + text),
    ]
    files, _ = seed_extras(machine.context, machine.uuid)
    if files:
        parts.append(_part("x-shellscript", _agent(files[PARAMETERS], files[AGENT])))
    site = base64.b64decode(machine.vendor_data) if machine.vendor_data else None
    _, own = seed_extras(None, machine.uuid, site)
    given = base64.b64decode(machine.user_data) if machine.user_data else b""
    parts += [_given(data, check_user_data(data)) for data in (own, given) if data]
    digest = hashlib.sha256(b"".join(part.as_bytes() for part in parts)).hexdigest()
    whole = MIMEMultipart(boundary=f"partita-{digest[:32]}", _subparts=parts).as_bytes()
    packed = whole if len(whole) <= MAX_USER_DATA else gzip.compress(whole, 9, mtime=0)
    if len(packed) > MAX_USER_DATA:
        raise UserDataRefused(
            f"user-data has {len(given)} bytes, or {len(packed)} when packed with the site's parts, more than the "
            f"{MAX_USER_DATA} that EC2 allows; have the guest download larger data"
        )
    return packed


def boot_hook(machine: DesiredMachine, volumes: Sequence[Volume]) -> str:
    """The script that runs at every boot: the timer in the background, and the blanks."""
    blanks = [
        f"{volume.size << 30} {volume.blank.filesystem} {volume.blank.label}".rstrip()
        for volume in volumes
        if volume.blank is not None and volume.blank.filesystem != "none"
    ]
    ends = int(machine.expires.timestamp())
    return _HOOK.format(timer=TIMER, ends=ends, metadata=METADATA, blanks=blanks_script(blanks))


def _agent(parameters: bytes, agent: bytes) -> bytes:
    """The context agent with the file that a seed would hold: EC2 has no seed. It runs once."""
    first, _, rest = agent.partition(b"\n")
    encoded = base64.b64encode(parameters).decode()
    return first + _AGENT.replace("{parameters}", encoded).encode() + rest


def blanks_script(lines: Sequence[str]) -> str:
    """The script that makes blanks: a line for each, `BYTES FILESYSTEM LABEL`, of any unused disk of that size."""
    return BLANKS.replace("{wanted}", "\n".join(lines)) if lines else ""


def _part(subtype: str, data: bytes, *, main: str = "text", merge: bool = False) -> Message:
    part = MIMENonMultipart(main, subtype)
    # In base64, so that no given text can look like the beginning of another part.
    part["Content-Transfer-Encoding"] = "base64"
    part.set_payload(base64.encodebytes(data).decode())
    if merge:
        part["Merge-Type"] = MERGE
    return part


def _given(data: bytes, kind: UserDataKind) -> Message:
    if kind == "mime":
        return email.message_from_bytes(data)
    if kind == "gzip":
        return _part("gzip", data, main="application")
    return _part(_SUBTYPES[kind], data, merge=kind == "cloud-config")
