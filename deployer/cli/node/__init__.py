"""The commands that speak to a node on this machine, and `partita up`."""
