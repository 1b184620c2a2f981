"""The data for a guest's first boot, shared by nodes and EC2: NoCloud seed and context agent. Does not know how it boots."""
