"""The command that writes the `.torrent` of a public partition, for other BitTorrent clients."""

from pathlib import Path
from typing import Annotated

import typer

from catalog.cli.options import ImageReference, Url, open_client
from catalog.client.client import CatalogClient
from catalog.errors import Misused, NotEntitled, NotFound
from catalog.image.address import Address
from catalog.image.manifest import Manifest, PlacedPartition
from catalog.image.reference import Reference
from catalog.swarm.torrent import info_hash, torrent_file
from signer.runtime import terminal


def torrent(
    context: typer.Context,
    reference: ImageReference,
    partition: Annotated[str, typer.Argument(help="A partition's label or number, or the address of a content.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .torrent file to make.")],
    catalog: Url = None,
) -> None:
    """Write the .torrent of a public partition, for any BitTorrent v2 client. Partita's nodes do not need it."""
    with open_client(context, catalog) as client:
        manifest = client.manifest(client.resolve(Reference.parse(reference)))
        url = client.url
    address = find_content(manifest, partition)
    with CatalogClient(url) as anonymous:  # a public content needs no credential
        try:
            layer = anonymous.accelerator(address, "layer")
        except NotFound as exc:
            raise NotEntitled(
                f"{partition} of {manifest.title} is restricted: its swarm admits nodes with certificates only"
            ) from exc
    data = torrent_file(address, layer, f"{url}/v1/announce")
    try:
        with output.open("xb") as file:
            file.write(data)
    except OSError as exc:
        raise Misused(f"{output}: the torrent cannot be written ({exc.strerror})") from exc
    digest = info_hash(address).hex()
    terminal.show(
        {"address": str(address), "info_hash": digest, "torrent": str(output)},
        f"{output}: {terminal.format_size(address.size)}, info-hash {digest}",
    )


def find_content(manifest: Manifest, which: str) -> Address:
    """The content with a partition's label or number, or with an address; Misused lists the labels."""
    found = {
        part.content
        for part in manifest.partitions()
        if part.content is not None
        and (which == part.label or (isinstance(part, PlacedPartition) and which == str(part.number)))
    } or {address for address in manifest.contents() if which == str(address)}
    if len(found) != 1:
        labels = ", ".join(part.label for part in manifest.partitions() if part.content is not None and part.label)
        many = "several partitions" if found else "no partition with content"
        raise Misused(f"{manifest.title} has {many} called {which!r}; give an address, or one of: {labels}")
    return found.pop()
