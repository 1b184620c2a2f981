"""Machines as values: specification, states, user data. Does not know a hypervisor or a node."""
