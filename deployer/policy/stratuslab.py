"""StratusLab policy files (policy.cfg), read into a policy of ours. Pure.

The syntax is theirs: sections `endorsers`, `images` and `checksums`, each with a white and a black list, one value a line;
an empty list is inactive and active lists all apply. Their loop is not copied (it skipped the neighbour of whatever it
struck out), and neither is their trust: they believed an endorser's e-mail address. Here every address stands for a key
that the site names, and an image's identifier, a SHA-1, for the image that the site says it became. What has no such
counterpart is refused if a list forbids it, for a prohibition must not get lost, and noted if a list allows it.
Source: StratusLab client, policy.cfg.tpl and Policy.py.
"""

import configparser
import json
from collections.abc import Mapping
from dataclasses import dataclass

from deployer.errors import PolicyUnusable
from deployer.policy.anchors import anchor_block
from deployer.policy.model import Policy
from signer.errors import KeyUnusable
from signer.openpgp.verifier import read_keys

MAX_FILE = 1 << 20
"""Bytes."""

LISTS = ("endorsers", "images", "checksums")
_ADVICE = {"endorsers": "--key {}=FILE gives the key", "images": "--image {}=VO/NAME says what it became here"}


@dataclass(frozen=True)
class TranslatedPolicy:
    """A policy of ours in TOML, and sentences about what the site should look at."""

    text: str
    notes: tuple[str, ...]


def parse_policy(data: bytes, what: str) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """The lists of a policy.cfg: for each section what is allowed and what is denied, in the file's order.

    Raises:
        PolicyUnusable: it is none, or says something that this does not understand.
    """
    if len(data) > MAX_FILE:
        raise PolicyUnusable(f"{what}: has more than the {MAX_FILE} bytes allowed")
    parser = configparser.ConfigParser(interpolation=None, strict=True, empty_lines_in_values=True)
    try:
        parser.read_string(data.decode("utf-8"))
    except (configparser.Error, UnicodeDecodeError) as exc:
        raise PolicyUnusable(f"{what}: is no StratusLab policy: {' '.join(str(exc).split())[:200]}") from exc
    if parser.defaults() or not set(parser.sections()) <= set(LISTS):
        strange = ", ".join([*(["DEFAULT"] if parser.defaults() else []), *sorted({*parser.sections()} - {*LISTS})])
        raise PolicyUnusable(f"{what}: has a section that is not understood: {strange}")
    found = {}
    for section in LISTS:
        known = {f"whitelist{section}", f"blacklist{section}"}
        values = dict(parser[section]) if parser.has_section(section) else {}
        if strange := ", ".join(sorted(set(values) - known)):
            raise PolicyUnusable(f"{what}: [{section}] has something that is not understood: {strange}")
        white, black = (_values(values.get(f"{color}list{section}", "")) for color in ("white", "black"))
        found[section] = (white, black)
    return found


def translate_policy(
    data: bytes, what: str, vo: str, role: str, keys: Mapping[str, bytes], images: Mapping[str, str]
) -> TranslatedPolicy:
    """A policy of ours that allows no more than a StratusLab policy does.

    Args:
        data: the policy.cfg.
        what: how to call it in errors.
        vo, role: what the endorsers vouch for here, and in what function; StratusLab knew neither.
        keys: armored public keys by the e-mail addresses that endorsers have in the file.
        images: what identifiers and checksums stand for here: `VO/NAME`, `VO/NAME@VERSION` or an image ID, maybe with `*`.

    Raises:
        PolicyUnusable: a black list has something that has no counterpart here; or the file is none, or a key.
    """
    found = parse_policy(data, what)
    fingerprints = {email: _fingerprint(email, key) for email, key in keys.items()}
    notes = []
    for section in LISTS:
        given: Mapping[str, object] = fingerprints if section == "endorsers" else images
        advice = _ADVICE["endorsers" if section == "endorsers" else "images"]
        white, black = found[section]
        if lost := [each for each in black if each not in given]:
            raise PolicyUnusable(
                f"{what}: [{section}] denies {lost[0]}, which stands for nothing here; {advice.format(lost[0])}"
            )
        notes += [f"[{section}] allows {each}, which stands for nothing here" for each in white if each not in given]
    trusted = [email for email in found["endorsers"][0] if email in fingerprints]
    trusted = [email for email in trusted if email not in found["endorsers"][1]]
    if not found["endorsers"][0]:
        notes.append("[endorsers] allows everybody; here nobody is believed whom the policy does not name")
    text = (
        f"# Made of the StratusLab policy {json.dumps(what)}. It allows no more than that one did.\n"
        f"{_table('vos', [vo], [])}"
        f"{_table('images', _images(found, images, vo), _denied(found, images))}"
        f"\n[endorsers]\ndeny = {json.dumps([fingerprints[each] for each in found['endorsers'][1]])}\n"
        "\n# StratusLab had no limits: say what a machine may have.\n[limits]\n"
    )
    for email in trusted:
        text += anchor_block(vo, role, fingerprints[email], keys[email].decode("ascii", "replace"))
    Policy.parse(text.encode(), what)
    if not trusted:
        notes.append("no endorser is trusted, so nothing is accepted")
    return TranslatedPolicy(text, tuple(notes))


def _values(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, (line.strip() for line in text.split("\n")))))


def _fingerprint(email: str, key: bytes) -> str:
    try:
        found = read_keys(key)
    except KeyUnusable as exc:
        raise PolicyUnusable(f"the key of {email} cannot be used: {exc}") from exc
    if len(found) != 1:
        raise PolicyUnusable(f"the key file of {email} holds {len(found)} keys; one is needed")
    return found[0].fingerprint


def _images(
    found: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]], images: Mapping[str, str], vo: str
) -> list[str]:
    """What both image lists allow: active ones all apply, so what each allows must be the same image."""
    active = [[images[each] for each in found[name][0] if each in images] for name in LISTS[1:] if found[name][0]]
    if not active:
        return [f"{vo}/*"]
    return [each for each in dict.fromkeys(active[0]) if all(each in other for other in active[1:])]


def _denied(found: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]], images: Mapping[str, str]) -> list[str]:
    return list(dict.fromkeys(images[each] for name in LISTS[1:] for each in found[name][1]))


def _table(name: str, allow: list[str], deny: list[str]) -> str:
    return f"\n[{name}]\nallow = {json.dumps(allow)}\ndeny = {json.dumps(deny)}\n"
