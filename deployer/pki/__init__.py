"""The site's CA and the TLS peer of a connection, shared by sites and nodes. Does not know who may do what."""
