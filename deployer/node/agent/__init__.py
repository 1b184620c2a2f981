"""The agent of a site on a node: reconciles machines toward the desired state and reports.

Knows the site only by its protocol.
"""
