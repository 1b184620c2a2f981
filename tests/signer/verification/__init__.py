"""Tests of signer.verification. Modules without a file of their own here, and where they are tested:

- `batch`, `signers`: every examination and signature in tests/signer/verification/test_endorsements.py,
  tests/signer/verification/test_revocations.py and tests/signer/x509/test_certificate_endorsements.py goes through
  them.
"""
