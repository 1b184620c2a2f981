"""The documents of the node's HTTP API. No behavior."""
