"""A policy's text with one anchor, and how tests read it."""

from deployer.policy.model import Policy

FPR = "0123456789ABCDEF0123456789ABCDEF01234567"


ARMORED = (
    "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDMEawL8sRYJKwYBBAHaRw8BAQdA\n=2Ypd\n-----END PGP PUBLIC KEY BLOCK-----\n"
)


ANCHOR = f"[[anchor]]\nvo='star'\nrole='image-administrator'\nfingerprint='{FPR}'\nkey='''\n{ARMORED}'''\n"


def parse(text: str) -> Policy:
    return Policy.parse(text.encode(), "policy p.toml")


def toml(value: object) -> str:
    if isinstance(value, list):
        return "[" + ",".join(toml(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int) else '"' + "".join(f"\\U{ord(c):08x}" for c in str(value)) + '"'
