"""The peer process that runs libtorrent, and its supervisor and protocol.

Knows torrents; does not know images or the cache's rules.
"""
