"""Fetching over HTTP and from contents that are here: sources, ranges, resumption, rate limits.

Does not know the swarm.
"""
