"""Signing policies: the names for which a grid trusts a CA. Pure.

The subset of the EACL language that grids use: `access_id_CA X509 NAME`, `pos_rights globus CA:sign`, `cond_subjects
globus PATTERNS`, where `*` is any text and `?` one character. A file with any other rule is refused: a rule that is
not understood may be the one that matters. Source: Globus Toolkit, "Signing Policy" (grammar of the policy files).
"""

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from signer.errors import SignatureError

MAX_SIGNING_POLICY = 64 << 10
"""Bytes of a file."""

_LINE = re.compile(r"""(\w+)\s+(\w+)\s+(?:'([^']*)'|"([^"]*)"|([^\s'"]+))\s*(?:#.*)?""", re.ASCII)
_QUOTED = re.compile(r'"([^"]*)"')


@dataclass(frozen=True)
class Namespace:
    """The names that one CA may sign."""

    authority: str
    signs: bool = False
    subjects: tuple[str, ...] = ()

    def permits(self, subject: str) -> bool:
        """Whether a subject is in the namespace."""
        return self.signs and any(_pattern(pattern).fullmatch(subject) for pattern in self.subjects)


def parse_signing_policy(text: str, what: str) -> tuple[Namespace, ...]:
    """Read the namespaces in a file.

    Args:
        text: the file's text.
        what: the file's name, for errors.

    Raises:
        SignatureError: a line is not understood; the message names it.
    """
    found: list[Namespace] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if not (match := _LINE.fullmatch(line.strip())):
            raise SignatureError(f"{what}, line {number}: not understood")
        keyword, authority, single, double, plain = match.groups()
        value = single if single is not None else double if double is not None else plain
        if (keyword, authority) == ("access_id_CA", "X509"):
            found.append(Namespace(value.strip().strip('"')))
        elif not found:
            raise SignatureError(f"{what}, line {number}: rule before the first access_id_CA")
        elif (keyword, authority, value) == ("pos_rights", "globus", "CA:sign"):
            found[-1] = replace(found[-1], signs=True)
        elif (keyword, authority) == ("cond_subjects", "globus"):
            patterns = _QUOTED.findall(value) if '"' in value else [value.strip()]
            found[-1] = replace(found[-1], subjects=(*found[-1].subjects, *filter(None, patterns)))
        else:
            raise SignatureError(f"{what}, line {number}: {keyword} {authority} is not understood")
    return tuple(found)


@lru_cache(maxsize=1024)
def _pattern(text: str) -> re.Pattern[str]:
    wild = {"*": ".*", "?": "."}
    return re.compile("".join(wild.get(char) or re.escape(char) for char in re.sub(r"\*+", "*", text)), re.DOTALL)
