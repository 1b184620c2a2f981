"""Migration of a machine from node to node: manifest, source, target, and the HTTPS server between them.

Does not decide when.
"""
