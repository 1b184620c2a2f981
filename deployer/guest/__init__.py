"""The data for a guest's first boot: the NoCloud seed and the context agent. Does not know how it is booted."""
