"""The command line: mounts each package's commands under one name."""


def main() -> None:
    """Run the command line."""
