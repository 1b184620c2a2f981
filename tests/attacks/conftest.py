"""People with keys, for attackers and for those whom they attack."""

from tests.signer.conftest import people

__all__ = ["people"]
