"""BitTorrent as the catalog speaks it: info dicts derived from addresses, tracker, announce keys, the swarm's
certificate authority. It opens no sockets.
"""
