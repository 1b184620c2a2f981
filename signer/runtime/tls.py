"""What clients verify servers with."""

import ssl


def trust_for(url: str) -> ssl.SSLContext | bool:
    """The `verify` of an HTTP client for that URL: the CAs of this system (True) for https.

    For any other it is a context that trusts no CA: reading the system's takes 20 ms, more than most requests, and without
    TLS they are not used.
    """
    return True if url.lower().startswith("https:") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
