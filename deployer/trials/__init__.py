"""Policies on trial: expectations, the request log, and its replay under another policy.

Changes nothing that is in force.
"""
