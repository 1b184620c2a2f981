"""The only door to AWS: client, retries, adaptive concurrency, tags. Does not know images or machines."""
