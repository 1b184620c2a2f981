"""A client of a site's clusters, over the client of the site."""

from collections.abc import Iterator
from urllib.parse import quote

from deployer.site.client.client import SiteClient
from deployer.site.schema.clusters import (
    ClusterDryRun,
    ClusterPage,
    ClusterRequest,
    ClusterSummary,
    ClusterView,
    ReplaceRequest,
    ScaleRequest,
)
from deployer.site.schema.messages import ReasonRequest
from signer.documents import canonical


class ClusterClient:
    """The clusters of one site.

    Args:
        client: of the site; the caller closes it.
    """

    def __init__(self, client: SiteClient) -> None:
        self._client = client

    def create(self, order: ClusterRequest, key: str) -> ClusterView:
        """Order a cluster. A repeated call with the same key and document returns the same cluster."""
        headers = {"Idempotency-Key": key}
        return self._client.ask(
            ClusterView, "POST", "clusters", content=canonical(order), headers=headers, again=bool(key)
        )

    def try_out(self, order: ClusterRequest) -> ClusterDryRun:
        """Dry-run an order."""
        return self._client.ask(
            ClusterDryRun, "POST", "clusters", content=canonical(order), params={"dry_run": "true"}, again=True
        )

    def all(self, **wanted: str) -> Iterator[ClusterSummary]:
        """Clusters that the caller may see, the newest first, read page by page; filters as in the API."""
        return self._client.items(ClusterPage, "clusters", wanted)

    def get(self, name: str) -> ClusterView:
        """One cluster, by UUID, the beginning of one, or an active one's name."""
        return self._client.ask(ClusterView, "GET", _path(name))

    def scale(self, name: str, wanted: ScaleRequest) -> ClusterView:
        """Change the number of members in a role."""
        return self._client.ask(ClusterView, "POST", f"{_path(name)}/scale", content=canonical(wanted), again=True)

    def replace(self, name: str, wanted: ReplaceRequest) -> ClusterView:
        """Replace a member by another machine."""
        return self._client.ask(ClusterView, "POST", f"{_path(name)}/replace", content=canonical(wanted))

    def destroy(self, name: str, reason: str = "") -> ClusterView:
        """End all members of a cluster."""
        return self._client.ask(
            ClusterView, "DELETE", _path(name), content=canonical(ReasonRequest(reason=reason)), again=True
        )


def _path(name: str) -> str:
    return f"clusters/{quote(name, safe='')}"
