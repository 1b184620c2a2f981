"""What a node remembers of its machines: records and signed receipts. Does not decide."""
