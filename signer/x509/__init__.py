"""X.509 certificates and CMS signatures: parsing, path validation (RFC 5280), grid CA directories, the openssl process.
Does not know what a signature is about.
"""
