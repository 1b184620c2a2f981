"""A real Debian with cloud-init, as a whole GPT disk that a BIOS boots."""
