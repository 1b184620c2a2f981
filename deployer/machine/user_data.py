"""User-data: what a requester gives a guest's first boot. It is root's code, so it is an input of its own to the policy.

Its kind is recognised as cloud-init recognises it (`convert_string` and `type_from_starts_with` there): a MIME message
by its header anywhere in the first 4 KiB, gzip by its magic, everything else by how it begins. What cloud-init would
read otherwise than we do is refused here, whatever a policy says.
"""

from typing import Final, Literal, get_args

import yaml

from deployer.errors import UserDataRefused

MAX_USER_DATA = 16 << 10
"""Bytes. The limit of EC2 for raw user-data; a guest can fetch what is larger."""

MAX_DEPTH = 64
"""Nested YAML collections. cloud-config needs about five; a reader that recurses breaks at some hundred."""

MAX_ALIASES = 32
"""YAML aliases. Merge keys over aliases grow exponentially with their number; with so few they stay small."""

UserDataKind = Literal[
    "cloud-config",
    "script",
    "cloud-config-archive",
    "cloud-config-jsonp",
    "jinja-template",
    "include",
    "boothook",
    "part-handler",
    "upstart-job",
    "mime",
    "gzip",
]
USER_DATA_KINDS: Final[tuple[UserDataKind, ...]] = get_args(UserDataKind)

_BEGINNINGS: Final[tuple[tuple[bytes, UserDataKind], ...]] = (
    (b"#cloud-config-archive", "cloud-config-archive"),
    (b"#cloud-config-jsonp", "cloud-config-jsonp"),
    (b"#cloud-config", "cloud-config"),
    (b"#cloud-boothook", "boothook"),
    (b"#part-handler", "part-handler"),
    (b"#upstart-job", "upstart-job"),
    (b"#include", "include"),
    (b"#!", "script"),
)
_GZIP = b"\x1f\x8b"
_MIME_LOOK = 4096
_TAGS: Final = frozenset({"tag:yaml.org,2002:binary", "tag:yaml.org,2002:str"})
"""The YAML tags that cloud-config has a use for (`!!binary` in write_files)."""


def check_user_data(data: bytes) -> UserDataKind:
    """Return the kind of user-data after checking it.

    Raises:
        UserDataRefused: larger than MAX_USER_DATA, of no known kind, disguised, or a cloud-config that is not a YAML mapping.
    """
    if len(data) > MAX_USER_DATA:
        raise UserDataRefused(
            f"user-data has {len(data)} bytes, more than the {MAX_USER_DATA} that a seed can carry; "
            "let the guest download larger data"
        )
    kind = _recognise(data)
    if kind == "cloud-config":
        _check_cloud_config(data)
    return kind


def _recognise(data: bytes) -> UserDataKind:
    if data.startswith(_GZIP):
        return "gzip"
    begins = data.lstrip().lower()
    if begins.startswith(b"##") and begins[2:].lstrip().startswith(b"template:"):
        return "jinja-template"
    found = next(((mark, kind) for mark, kind in _BEGINNINGS if begins.startswith(mark)), None)
    if b"mime-version:" in data[:_MIME_LOOK].lower():
        if found is not None:
            raise UserDataRefused(
                f"user-data begins as a {found[1]} but holds a MIME header in its first {_MIME_LOOK} bytes, so a guest "
                "would read it as a MIME message; remove the words 'MIME-Version:'"
            )
        return "mime"
    if found is None:
        shown = data[:24].decode("ascii", "backslashreplace").splitlines() or [""]
        raise UserDataRefused(
            f"user-data begins with {shown[0]!r}, which says nothing of its kind; "
            "begin it with '#cloud-config' or with a script's '#!'"
        )
    mark, kind = found
    if not data.startswith(mark):
        raise UserDataRefused(
            f"user-data has white space or capitals before or in {mark.decode()!r}; "
            "begin its first byte with that, in lower case"
        )
    if kind not in {"script", "include"} and data[len(mark) :][:1].strip():
        line = data.split(b"\n", 1)[0][:40].decode("ascii", "backslashreplace")
        raise UserDataRefused(f"user-data begins with {line!r}; end the line after {mark.decode()!r}")
    return kind


def _check_cloud_config(data: bytes) -> None:
    """It is one YAML document, a mapping, small in every respect, with no tags that make a reader construct things."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise UserDataRefused(f"the cloud-config is not UTF-8 at byte {exc.start}") from exc
    try:
        _check_events(text)
        value = yaml.safe_load(text)
    except yaml.MarkedYAMLError as exc:
        place = (
            f" at line {exc.problem_mark.line + 1}, column {exc.problem_mark.column + 1}" if exc.problem_mark else ""
        )
        raise UserDataRefused(f"the cloud-config is not YAML{place}: {exc.problem}") from exc
    except yaml.YAMLError as exc:
        raise UserDataRefused(f"the cloud-config is not YAML: {str(exc).splitlines()[0]}") from exc
    except (ValueError, OverflowError) as exc:  # a date or number that YAML's grammar allows and no value has
        raise UserDataRefused(f"the cloud-config holds a value that cannot be read: {exc}") from exc
    if not isinstance(value, dict):
        found = "empty" if value is None else f"a {type(value).__name__}"
        raise UserDataRefused(
            f"the cloud-config is not a mapping but {found}; write it as lines of 'key: value' after '#cloud-config'"
        )


def _check_events(text: str) -> None:
    """Walk the document without building anything of it, and stop at the first thing that is not wanted."""
    depth = aliases = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 0
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        aliases += isinstance(event, yaml.AliasEvent)
        if depth > MAX_DEPTH:
            raise UserDataRefused(f"the cloud-config is nested more than {MAX_DEPTH} deep at line {line}")
        if aliases > MAX_ALIASES:
            raise UserDataRefused(f"the cloud-config has more than {MAX_ALIASES} aliases at line {line}")
        tag = getattr(event, "tag", None)
        if tag is not None and tag not in _TAGS:
            raise UserDataRefused(
                f"the cloud-config has the tag {tag[:80]!r} at line {line}; only !!binary is used there"
            )
