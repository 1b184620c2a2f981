"""Acceptance policies: documents, rules, evaluation, explanation, revocations in force.

Decides without IO; does not start anything.
"""
