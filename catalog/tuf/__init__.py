"""TUF metadata as its readers need it: keys, targets, staleness, and the client that verifies. Does not sign."""
