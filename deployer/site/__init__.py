"""The site service: admits requests, places machines on nodes, and keeps the desired state.

Does not import the node.
"""
