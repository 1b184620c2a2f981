"""The commands `partita key`, and the options with which other commands choose a signer."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from signer.errors import KeyUnusable
from signer.openpgp.gpg import MAX_KEY
from signer.openpgp.keyring import ALGORITHMS, Keyring
from signer.openpgp.keys import Key, SignerSettings, normalize_fingerprint, sole_signing_key
from signer.runtime import files, terminal
from signer.runtime.clock import utc_now
from signer.runtime.units import parse_duration
from signer.statements.endorsement import write_instant
from signer.verification.signers import CertificateSigner, KeySigner, Signer
from signer.x509.certificates import MAX_CERTIFICATE, Credential

MAX_PASSPHRASE = 1024
"""Bytes. A longer line means that the wrong file was named."""

key_app = typer.Typer(name="key", help="Manage the keys with which you endorse images.", no_args_is_help=True)


def open_keyring(context: typer.Context) -> Keyring:
    """Open the keyring that the settings name (signer.home)."""
    return Keyring(terminal.section(context, SignerSettings).home)


def choose_key(keyring: Keyring, fingerprint: str | None) -> str:
    """Return the given fingerprint, or that of the user's only usable key."""
    return sole_signing_key(keyring.keys(), utc_now()) if fingerprint is None else normalize_fingerprint(fingerprint)


def read_passphrase(file: Path | None) -> str:
    """Read the first line of a passphrase file; empty without a file, KeyUnusable if the line is not a passphrase."""
    if file is None:
        return ""
    try:
        with file.open("rb") as opened:
            line = opened.readline(MAX_PASSPHRASE + 1)
        passphrase = line.decode("utf-8").rstrip("\r\n")
    except OSError as exc:
        raise KeyUnusable(f"{file}: the passphrase cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise KeyUnusable(f"{file}: the passphrase is not UTF-8 text") from exc
    if not passphrase or len(line) > MAX_PASSPHRASE:
        raise KeyUnusable(f"{file}: the first line must be the passphrase, 1 to {MAX_PASSPHRASE} bytes")
    return passphrase


def _span(text: str) -> timedelta | None:
    try:
        span = None if text == "never" else timedelta(seconds=parse_duration(text))
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc
    if span is not None and span < timedelta(days=1):
        raise typer.BadParameter(f"{text} is too short: the lifetime of a key is at least one day")
    return span


PassphraseFile = Annotated[
    Path | None, typer.Option("--passphrase-file", help="File whose first line is the key's passphrase.")
]
OwnKey = Annotated[
    str | None, typer.Option("--key", help="Fingerprint of the key to sign with; by default your only key.")
]
CertificateFile = Annotated[
    Path | None, typer.Option("--certificate", help="Sign with this X.509 certificate (PEM) instead of a key.")
]
CertificateKeyFile = Annotated[
    Path | None,
    typer.Option("--certificate-key", help="The certificate's private key; by default userkey.pem beside it."),
]


def choose_signer(
    context: typer.Context,
    key: str | None,
    certificate: Path | None,
    certificate_key: Path | None,
    passphrase_file: Path | None,
) -> Signer:
    """Make the signer that the options name: a certificate, else a key in the keyring.

    Raises:
        KeyUnusable: both are named, or the chosen one cannot be read.
    """
    passphrase = read_passphrase(passphrase_file)
    if certificate is None:
        keyring = open_keyring(context)
        return KeySigner(keyring, choose_key(keyring, key), passphrase)
    if key is not None:
        raise KeyUnusable("give either --key or --certificate, not both")
    private = certificate_key or certificate.with_name("userkey.pem")
    held, key_pem = (files.read_bounded(each, MAX_CERTIFICATE, KeyUnusable) for each in (certificate, private))
    return CertificateSigner(Credential.read(held, key_pem, passphrase))


@key_app.command("new")
def new(
    context: typer.Context,
    user_id: Annotated[str, typer.Argument(help="The key's owner, such as 'STAR images <images@star.example>'.")],
    expires: Annotated[str, typer.Option(help="Lifetime of the key: 90d, 4w, 2y, or never.")] = "2y",
    algorithm: Annotated[str, typer.Option(help=f"One of {', '.join(ALGORITHMS)}.")] = "ed25519",
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a key for endorsing images; prints its fingerprint."""
    keyring, lifetime, passphrase = open_keyring(context), _span(expires), read_passphrase(passphrase_file)
    fingerprint = keyring.generate(user_id, lifetime=lifetime, algorithm=algorithm, passphrase=passphrase)
    if not passphrase:
        terminal.say(f"This key has no passphrase: anyone who can read {keyring.home} can endorse in your name.")
    terminal.show({"fingerprint": fingerprint, "home": str(keyring.home)}, fingerprint)


@key_app.command("list")
def list_keys(context: typer.Context) -> None:
    """List the keys of your keyring, your own first."""
    now = utc_now()
    keys = open_keyring(context).keys()
    rows = [[key.fingerprint, _kind(key), _state(key, now), ", ".join(key.user_ids)] for key in keys]
    value = [_value(key, now) for key in keys]
    terminal.show(value, terminal.table(["FINGERPRINT", "KEY", "STATE", "USER"], rows))


@key_app.command("export")
def export(
    context: typer.Context,
    fingerprint: Annotated[str | None, typer.Argument(help="40 hex digits; by default your only key.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the key to this file.")] = None,
) -> None:
    """Print a public key, or write it to a file, to be registered at a catalog and trusted by sites."""
    keyring = open_keyring(context)
    wanted = choose_key(keyring, fingerprint)
    key = keyring.export(wanted)
    if output is not None:
        try:
            output.write_bytes(key)
        except OSError as exc:
            raise KeyUnusable(f"{output}: the key cannot be written: {exc.strerror}") from exc
        terminal.show({"fingerprint": wanted, "file": str(output)}, f"{output}: public key {wanted}")
    else:
        text = key.decode("ascii")
        terminal.show({"fingerprint": wanted, "key": text}, text.rstrip())


@key_app.command("import")
def import_keys(
    context: typer.Context, file: Annotated[Path, typer.Argument(help="A public key, armoured or binary.")]
) -> None:
    """Import another person's public key into your keyring."""
    found = open_keyring(context).import_keys(files.read_bounded(file, MAX_KEY, KeyUnusable))
    terminal.show({"fingerprints": found}, "\n".join(found))


def _kind(key: Key) -> str:
    return "own" if key.secret else "public"


def _state(key: Key, now: datetime) -> str:
    if reason := key.unusable_reason(now):
        return reason
    return f"until {key.primary.expires:%Y-%m-%d}" if key.primary.expires else "never expires"


def _value(key: Key, now: datetime) -> dict[str, object]:
    return {
        "fingerprint": key.fingerprint,
        "user_ids": list(key.user_ids),
        "secret": key.secret,
        "created": write_instant(key.primary.created),
        "expires": write_instant(key.primary.expires) if key.primary.expires else None,
        "usable": not key.unusable_reason(now),
        "state": _state(key, now),
    }
