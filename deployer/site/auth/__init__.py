"""Who asks, and what they may do: tokens, certificates, VOMS, grants, rate limits. Does not know what is asked for."""
