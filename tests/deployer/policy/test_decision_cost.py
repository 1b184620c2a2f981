"""Judging: what is computed once stays with whom it was computed for, and a decision costs little."""

import copy
import pickle

from catalog.image.address import Address
from catalog.image.manifest import Manifest
from deployer.policy.model import MachineLimits, Policy
from tests.support.factories import manifest

IMAGE = manifest([Address.parse(f"{'ab' * 32}-4096"), Address.parse(f"{'cd' * 32}-65536")])


def test_a_changed_copy_of_an_image_has_an_id_of_its_own() -> None:
    before = IMAGE.image_id
    other = IMAGE.model_copy(update={"version": "2.0"})

    assert other.image_id == Manifest.parse(other.canonical()).image_id != before
    assert IMAGE.image_id == before
    for same in (copy.copy(IMAGE), copy.deepcopy(IMAGE), pickle.loads(pickle.dumps(IMAGE)), IMAGE.model_copy()):  # noqa: S301 - our own bytes
        assert same.image_id == before
        assert same == IMAGE
    assert Manifest.parse(IMAGE.canonical()) == IMAGE
    assert b"_image_id" not in IMAGE.canonical()


def test_a_changed_copy_of_a_policy_has_a_digest_of_its_own() -> None:
    policy = Policy()
    before = policy.digest
    other = policy.model_copy(update={"limits": MachineLimits(cores=1)})

    assert other.digest == Policy(limits=MachineLimits(cores=1)).digest != before
    assert policy.digest == before
    assert policy == Policy()
