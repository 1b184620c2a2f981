"""Questions to a site's API without the client: only the connection is checked."""

import ssl
import uuid

import httpx2

from deployer.protocol.deployment_request import DeploymentRequest
from tests.support.site.service_process import SiteProcess

HELLO = DeploymentRequest(image="star/hello@1.0", lifetime=3600)


def key() -> str:
    """A fresh one."""
    return str(uuid.uuid4())


def plain(site: SiteProcess, token: str = "") -> httpx2.Client:
    """A client that checks nothing but the connection."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    context = ssl.create_default_context(cadata=site.ca)
    return httpx2.Client(base_url=site.url, headers=headers, verify=context, trust_env=False, timeout=60)
