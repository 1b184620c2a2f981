"""Authentication and authorization: tokens, certificates, VOMS, grants, rate limits. Knows nothing of what is requested."""
