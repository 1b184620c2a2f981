"""Parts that the deployer's HTTP services share: server threads, socket paths, wake-ups. Knows nothing of what is served."""
