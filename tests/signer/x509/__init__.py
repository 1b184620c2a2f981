"""Tests of signer.x509. Modules without a file of their own here, and where they are tested:

- `ca_directory`, `cms_parser`, `cms_verifier`, `der`, `openssl`, `path_validation`: one table of forged, expired and
  misplaced certificates and signatures, tests/signer/x509/test_certificate_endorsements.py, which stock openssl judges
  too: what one of them misses another must catch.
"""
