"""S/MIME messages: what is not one is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signer.errors import SignatureError
from signer.verification.smime import read_message


@given(data=st.binary(max_size=300))
def test_no_garbage_is_a_message(data: bytes) -> None:
    for text in (data, b"Content-Type: multipart/signed; boundary=a\n\n" + data):
        with pytest.raises(SignatureError):
            read_message(text)
