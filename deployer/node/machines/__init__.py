"""Machines on one node: deployment, operations, supervision, capacity, consoles. Does not know the site."""
