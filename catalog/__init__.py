"""Images: what they are, how they are made, published, listed as current and served.

Knows nothing of a node's cache or of machines.
"""
