"""The certificate authority of a site, and the TLS peer of a connection. Does not know who may do what."""
