"""Images as values and directories: manifest, content addresses, blanks, partition types, the image directory.

No network access and no database.
"""
