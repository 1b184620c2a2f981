"""What a guest is given at its first boot: the NoCloud seed and the context agent. Does not know how it is booted."""
