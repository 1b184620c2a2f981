"""What an image is: manifest, content addresses, blanks, partition types, the image directory.

Does no network and knows no database.
"""
