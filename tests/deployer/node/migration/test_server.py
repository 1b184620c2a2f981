"""Who is given a machine: over real TLS, with the certificates that a site gives, and with those that it did not give for this."""

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deployer.errors import MigrationFailed
from deployer.node.membership.credentials import CA_FILE, CERTIFICATE_FILE, KEY_FILE, URL_FILE, SiteMembership
from deployer.node.migration.client import MigrationClient
from deployer.node.migration.manifest import MigrationFile, MigrationManifest, describe_file, read_runs, write_runs
from deployer.node.migration.server import create_migration_app, serve_migrations, tls_context
from deployer.pki.ca import CertificateAuthority, create_request
from deployer.protocol.migration import Platform

LIFE = timedelta(days=1)
SOURCE, TARGET, OTHER, MACHINE = (f"{letter * 8}-0000-4000-8000-000000000000" for letter in "abcd")


class Gives:
    """What `Giver` does for one machine, which is offered to TARGET as move 3."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._offer = MigrationManifest(
            number=3,
            machine=MACHINE,
            state="stopped",
            image_id="sha256:" + "1" * 64,
            name="hello-1",
            created=datetime(2026, 11, 22, tzinfo=UTC),
            memory=32 << 20,
            cores=1,
            virt="qemu",
            platform=Platform(emulator="QEMU", libvirt="libvirt"),
            pieces=(describe_file(file),),
        )

    def offer(self, uuid: str, number: int, to: str) -> MigrationManifest:
        """See `Giver`."""
        if (uuid, number, to) != (MACHINE, 3, TARGET):
            raise MigrationFailed("it is not offered to this node", again=True)
        return self._offer

    def runs(self, uuid: str, number: int, name: str, to: str, start: int) -> Iterator[bytes]:
        """See `Giver`."""
        self.offer(uuid, number, to)
        if name != self.file.name:
            raise MigrationFailed(f"there is no {name}")
        return read_runs(self.file, start)


class Hall:
    """A site's CA, the members that it has, and a node that gives a machine away."""

    def __init__(self, place: Path) -> None:
        self._place, self._now = place, datetime.now(UTC)
        self.authority = CertificateAuthority.make(self._now)
        self.file = place / "disk0.qcow2"
        self.file.write_bytes(os.urandom(300_000) + bytes(1 << 20) + b"end")
        self.url = ""

    def member(
        self, name: str, authority: CertificateAuthority | None = None, *, guest: bool = False, uuid: str = ""
    ) -> SiteMembership:
        """The files of one, certified by an authority; believing this site's."""
        place = self._place / name
        place.mkdir()
        key, request = create_request()
        by = authority or self.authority
        one = (
            by.host(request, uuid or TARGET, [SOURCE], self._now, LIFE)
            if guest
            else by.node(request, uuid or TARGET, self._now, LIFE)
        )
        (place / KEY_FILE).write_bytes(key)
        (place / CERTIFICATE_FILE).write_text(one)
        (place / CA_FILE).write_bytes(self.authority.certificate)
        (place / URL_FILE).write_text("https://127.0.0.1:1")
        found = SiteMembership.read(place)
        assert found is not None
        return found

    def serve(self, stack: ExitStack, member: SiteMembership) -> str:
        """Give the machine away as that member; the URL."""
        context, authority = tls_context(member)
        app = create_migration_app(Gives(self.file), authority)  # type: ignore[arg-type] # behaves as one
        return stack.enter_context(serve_migrations(app, socket.create_server(("127.0.0.1", 0)), context))


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hall]:
    """One that serves."""
    with ExitStack() as stack:
        made = Hall(tmp_path_factory.mktemp("hall"))
        made.url = made.serve(stack, made.member("source", uuid=SOURCE))
        yield made


def test_the_node_that_it_is_for_gets_it_and_nobody_reads_on(hall: Hall, tmp_path: Path) -> None:
    """The offer, the file whole, and the rest of it after a cut."""
    with MigrationClient(hall.member("target"), hall.url, SOURCE) as client:
        offer = client.offer(MACHINE, 3)
        (piece,) = offer.pieces
        for start in (0, 100_000):
            fetched = tmp_path / f"from-{start}"
            fetched.write_bytes(hall.file.read_bytes()[:start])
            descriptor = os.open(fetched, os.O_RDWR)
            with client.runs(MACHINE, 3, piece, start) as stream:
                write_runs(descriptor, piece, stream, lambda _: None)
            os.close(descriptor)
            assert fetched.read_bytes() == hall.file.read_bytes()
        stranger = MigrationFile(name="id-rsa", size=1, digest="0" * 64)
        with pytest.raises(MigrationFailed, match="there is no id-rsa"), client.runs(MACHINE, 3, stranger, 0):
            pass


STRANGERS = [
    ("another node of the site", "other", "not offered to this node"),
    ("a guest of the site", "guest", "only nodes of the site"),
    ("a node of another site", "foreign", "does not answer"),
]


@pytest.mark.parametrize(("who", "kind", "says"), STRANGERS, ids=[who for who, _, _ in STRANGERS])
def test_nobody_else_gets_anything(hall: Hall, who: str, kind: str, says: str) -> None:
    """Neither the offer nor a file, though they know machine and number."""
    match kind:
        case "other":
            member = hall.member(kind, uuid=OTHER)
        case "guest":
            member = hall.member(kind, guest=True)
        case _:
            member = hall.member(kind, CertificateAuthority.make(datetime.now(UTC)))
    with MigrationClient(member, hall.url, SOURCE) as client:
        with pytest.raises(MigrationFailed, match=says):
            client.offer(MACHINE, 3)
        piece = MigrationFile(name="disk0.qcow2", size=1, digest="0" * 64)
        with pytest.raises(MigrationFailed, match=says), client.runs(MACHINE, 3, piece, 0):
            pass


def test_who_is_not_the_node_that_the_site_named_is_not_believed(hall: Hall) -> None:
    """A guest has a certificate of the site's for its own name, another node for its own: neither is the source."""
    with ExitStack() as stack:
        target = hall.member("careful")
        for name, url in (
            ("another node", hall.serve(stack, hall.member("liar", uuid=OTHER))),
            (
                "a node of another site",
                hall.serve(stack, hall.member("far", CertificateAuthority.make(datetime.now(UTC)), uuid=SOURCE)),
            ),
        ):
            with (
                pytest.raises(MigrationFailed, match="does not answer") as failed,
                MigrationClient(target, url, SOURCE) as client,
            ):
                client.offer(MACHINE, 3)
            assert "CERTIFICATE_VERIFY_FAILED" in str(failed.value), name


def test_a_source_that_sends_nothing_holds_nobody_up_for_ever(hall: Hall) -> None:
    """What listens and never answers is given up; the move is tried again."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        taken: list[socket.socket] = []
        threading.Thread(target=lambda: taken.append(mute.accept()[0]), daemon=True).start()
        url = f"https://127.0.0.1:{mute.getsockname()[1]}"
        with (
            MigrationClient(hall.member("patient"), url, SOURCE, 0.3) as client,
            pytest.raises(MigrationFailed) as failed,
        ):
            client.offer(MACHINE, 3)
        assert failed.value.again
        for one in taken:
            one.close()
