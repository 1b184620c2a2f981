"""A token issuer for tests: real HTTPS on loopback with a CA of its own, keys that change, and every way to misbehave."""

import datetime as dates
import json
import ssl
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

AUDIENCE = "https://site.example.org:7443"
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_ALGORITHMS = {
    rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
    ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
    ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
}


def public_jwk(key: Private, kid: str, **members: Any) -> dict[str, Any]:
    """The public part of a key, as issuers publish it."""
    kind = next(each for base, each in _ALGORITHMS.items() if isinstance(key, base))
    return kind.to_jwk(key.public_key(), as_dict=True) | {"kid": kid} | members  # type: ignore[attr-defined,no-any-return]


@dataclass
class Signer:
    """Makes tokens with one key."""

    url: str
    key: Private
    kid: str = "k1"
    algorithm: str = "ES256"

    def claims(self, now: datetime, **changes: Any) -> dict[str, Any]:
        """Valid WLCG claims, with changes; None takes a claim out."""
        at = int(now.timestamp())
        found = {
            "iss": self.url,
            "sub": "ann",
            "aud": AUDIENCE,
            "iat": at,
            "nbf": at,
            "exp": at + 3600,
            "jti": str(uuid.uuid4()),
            "wlcg.ver": "1.0",
            "wlcg.groups": ["/star", "/star/production"],
        }
        found |= {name.replace("__", "."): value for name, value in changes.items()}
        return {name: value for name, value in found.items() if value is not None}

    def token(self, now: datetime, *, header: Mapping[str, Any] | None = None, **changes: Any) -> str:
        """A signed token; `header` changes its header (None takes a member out)."""
        return self.sign(self.claims(now, **changes), header)

    def sign(self, claims: Mapping[str, Any], header: Mapping[str, Any] | None = None) -> str:
        """Sign these claims."""
        head = {"kid": self.kid} | dict(header or {})
        head = {name: value for name, value in head.items() if value is not None}
        return jwt.encode(dict(claims), self.key, algorithm=self.algorithm, headers=head)


class Held:
    """A key source that has what it is given, and counts who asks."""

    def __init__(self, *keys: Mapping[str, Any]) -> None:
        self.keys = {str(key["kid"]): key for key in keys}
        self.asked: list[tuple[str, str]] = []

    def key(self, issuer: str, kid: str) -> Mapping[str, Any] | None:
        """The key, remembered that somebody wanted it."""
        self.asked.append((issuer, kid))
        return self.keys.get(kid)


@dataclass
class Served:
    """An issuer's server. Change `pages` to change what it answers; `hits` counts the requests for each path."""

    url: str
    authorities: Path
    key: ec.EllipticCurvePrivateKey
    kid: str = "k1"
    pages: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    hits: dict[str, int] = field(default_factory=dict)
    drip: float = 0.0

    @property
    def signer(self) -> Signer:
        """Signs with the key that is published now."""
        return Signer(self.url, self.key, self.kid)

    def publish(self, *keys: Mapping[str, Any], well_known: str = "openid-configuration") -> None:
        """Serve a discovery document and these keys, or the current one."""
        shown = keys or (public_jwk(self.key, self.kid),)
        self.pages = {
            f"/.well-known/{well_known}": (
                200,
                json.dumps({"issuer": self.url, "jwks_uri": f"{self.url}/jwks"}).encode(),
            ),
            "/jwks": (200, json.dumps({"keys": list(shown)}).encode()),
        }

    def rotate(self, kid: str) -> None:
        """Another key under another name, and the old one no more."""
        self.key, self.kid = ec.generate_private_key(ec.SECP256R1()), kid
        self.publish()


@contextmanager
def issuer(place: Path) -> Iterator[Served]:
    """A server that runs until the context ends."""
    authorities, chain = _certificates(place)
    found: list[Served] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served = found[0]
            served.hits[self.path] = served.hits.get(self.path, 0) + 1
            status, body = served.pages.get(self.path, (404, b"{}"))
            self.send_response(status)
            for name, value in served.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if not served.drip:
                self.wfile.write(body)
                return
            for byte in body:
                self.wfile.write(bytes([byte]))
                time.sleep(served.drip)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that does not like the certificate, or goes away, is what some tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    url = f"https://localhost:{server.server_address[1]}"
    found.append(Served(url, authorities, ec.generate_private_key(ec.SECP256R1())))
    found[0].publish()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield found[0]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _certificates(place: Path) -> tuple[Path, Path]:
    """A CA, and a certificate of its for localhost with its key: two PEM files."""
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"CA of {place.name[:40]}")])
    key, held = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    period = (now - dates.timedelta(days=1), now + dates.timedelta(days=30))
    authority = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(period[0])
        .not_valid_after(period[1])
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    names = [x509.DNSName("localhost")]
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(name)
        .public_key(held.public_key())
        .serial_number(2)
        .not_valid_before(period[0])
        .not_valid_after(period[1])
        .add_extension(x509.SubjectAlternativeName(names), critical=True)
        .sign(key, hashes.SHA256())
    )
    place.mkdir(exist_ok=True)
    authorities, chain = place / "issuers-ca.pem", place / "issuer.pem"
    authorities.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    chain.write_bytes(
        leaf.public_bytes(serialization.Encoding.PEM)
        + held.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return authorities, chain
