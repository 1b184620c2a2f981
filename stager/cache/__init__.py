"""The node's cache of contents: entries, index, leases, quota, eviction, recovery.

Does not know where contents come from.
"""
