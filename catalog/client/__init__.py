"""Clients of a catalog: the plain HTTP client, the client that trusts only signed metadata, failover to mirrors,
transfer of whole images. Knows no server code.
"""
