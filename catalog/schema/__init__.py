"""The documents of the catalog's HTTP API, shared by its service and its clients. No behavior."""
