"""The documents of the catalog's HTTP API, shared by its service and its clients. It only converts and validates."""
