"""What clients verify servers with: the CAs of the system where there is TLS, and none without TLS."""

import ssl

import pytest

from signer.runtime.tls import trust_for


@pytest.mark.parametrize("url", ["https://catalog.example.org", "HTTPS://catalog.example.org"])
def test_https_is_verified_by_the_system(url: str) -> None:
    assert trust_for(url) is True


@pytest.mark.parametrize("url", ["http://127.0.0.1:7070", ""])
def test_without_tls_no_ca_is_read_and_none_is_trusted(url: str) -> None:
    """Should such a client be led to a TLS server after all, it refuses that."""
    trust = trust_for(url)
    assert isinstance(trust, ssl.SSLContext)
    assert trust.cert_store_stats()["x509"] == 0
    assert (trust.verify_mode, trust.check_hostname) == (ssl.CERT_REQUIRED, True)
