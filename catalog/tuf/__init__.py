"""TUF metadata as its readers need it: keys, targets, and the client that verifies and knows how fresh they are. Does not sign."""
