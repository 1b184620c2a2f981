"""What every command and service shares: settings, logging, terminal output, progress, files.

Knows nothing of signatures.
"""
