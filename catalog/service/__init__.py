"""The catalog as a process: daemon, mirror, backup, gauges. Does not know the command line."""
