"""The page of a cluster: roles in the order in which they start."""

from deployer.site.console.clusters import rank_roles
from deployer.site.model.cluster import ClusterDocument
from signer.documents import validate


def test_roles_stand_in_the_order_in_which_they_start() -> None:
    """Each rank needs only what those before it provide; roles that need nothing are first, by name."""
    roles = {
        "worker": {"image": "star/w@1.0", "requires": ["batch", "disk"]},
        "head": {"image": "star/h@1.0", "provides": ["batch"], "requires": ["disk"]},
        "store": {"image": "star/s@1.0", "provides": ["disk"]},
        "alone": {"image": "star/a@1.0"},
    }
    document = validate(ClusterDocument, {"name": "c", "roles": roles}, "cluster")
    assert rank_roles(document) == [["alone", "store"], ["head"], ["worker"]]
