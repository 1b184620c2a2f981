"""The node as one object: puts its parts together. The daemon runs it."""
