"""The HTTP routes of the node. No decisions."""
