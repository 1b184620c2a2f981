"""A content in its swarm: tracker client, announcer, sharing, and what is done about a stall.

Talks to libtorrent only through the peer process.
"""
