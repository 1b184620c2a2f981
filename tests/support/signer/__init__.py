"""Statements by certificates, genuine and forged."""
