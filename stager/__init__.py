"""Contents on a node: the cache, fetching over HTTP and from peers, scrubbing.

Knows contents by their addresses; does not know machines.
"""
