"""The commands `partita cluster publish|endorse|published`. Wiring only."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from catalog.client.client import CatalogClient
from catalog.errors import Misused
from catalog.image.reference import Reference
from catalog.settings import CatalogSettings
from signer.cli import CertificateFile, CertificateKeyFile, OwnKey, PassphraseFile, choose_signer
from signer.documents import canonical
from signer.runtime import terminal
from signer.runtime.clock import current_second
from signer.verification.endorsements import DEFAULT_ROLE, ENDORSEMENT_LIFETIME, endorse
from signer.verification.signers import Signer

ClusterFile = Annotated[Path, typer.Argument(help="The cluster document: TOML, or JSON where its name ends in .json.")]
Title = Annotated[str, typer.Argument(help="The name to publish under: VO/NAME@VERSION.", metavar="VO/NAME@VERSION")]
Url = Annotated[str | None, typer.Option("--catalog", help="URL of the catalog; else the setting catalog.url.")]
EndorserRole = Annotated[str, typer.Option("--role", help="The role in which you endorse it.")]
Days = Annotated[int, typer.Option(min=1, max=3650, help="Validity of the endorsement in days.")]
CommentText = Annotated[str, typer.Option("--comment", help="Free text for people.")]


published_app = typer.Typer()


def _add_vouching(verb: str, about: str, *, publishes: bool) -> None:
    def command(
        context: typer.Context,
        file: ClusterFile,
        title: Title,
        key: OwnKey = None,
        certificate: CertificateFile = None,
        certificate_key: CertificateKeyFile = None,
        role: EndorserRole = DEFAULT_ROLE,
        days: Days = ENDORSEMENT_LIFETIME.days,
        comment: CommentText = "",
        passphrase_file: PassphraseFile = None,
        catalog: Url = None,
    ) -> None:
        data, digest = _read(file, title)
        signer = choose_signer(context, key, certificate, certificate_key, passphrase_file)
        pair = _endorsed(signer, digest, title, role, days, comment)
        with _catalog(context, catalog) as client:
            if publishes:
                entry = client.publish_cluster(data, [pair])
                terminal.show(entry.model_dump(mode="json"), f"{title} is published\n{entry.digest}")
            else:
                client.endorse(digest, [pair], "clusters")
                value = {"title": title, "digest": digest, "role": role}
                terminal.show(value, f"{title} is endorsed\n{digest}")

    published_app.command(verb, help=about)(command)


_add_vouching(
    "publish",
    "Publish a cluster document in a catalog and endorse it. Everyone can read it, so keep passwords out of it.",
    publishes=True,
)
_add_vouching("endorse", "Endorse a published cluster document: exactly the one in the file.", publishes=False)


@published_app.command("published")
def cluster_published(
    context: typer.Context,
    vo: Annotated[str | None, typer.Option(help="Only clusters of this VO.")] = None,
    catalog: Url = None,
) -> None:
    """List the cluster documents that a catalog has published, the newest first."""
    with _catalog(context, catalog) as client:
        found = list(client.clusters(vo))
    rows = [(one.title, f"{one.published:%Y-%m-%d %H:%M}", one.digest) for one in found]
    shown = terminal.table(("CLUSTER", "PUBLISHED", "DIGEST"), rows) if rows else "no clusters"
    terminal.show([one.model_dump(mode="json") for one in found], shown)


def _read(file: Path, title: str) -> tuple[bytes, str]:
    """The canonical document of a file, and its digest; Misused unless the title has a version."""
    from deployer.site.model.cluster import read_cluster

    if Reference.parse(title).version is None:
        raise Misused(f"{title}: the name has no version; write VO/NAME@VERSION")
    document = read_cluster(file)
    return canonical(document), f"sha256:{document.digest}"


def _endorsed(signer: Signer, digest: str, title: str, role: str, days: int, comment: str) -> tuple[bytes, bytes]:
    now, lifetime = current_second(), timedelta(days=days)
    return endorse(signer, digest, title, now, kind="cluster", role=role, lifetime=lifetime, comment=comment)


def _catalog(context: typer.Context, url: str | None) -> CatalogClient:
    return CatalogClient(url or terminal.section(context, CatalogSettings).url)
