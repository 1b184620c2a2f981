"""Contents on the catalog's disk: content store, resumable uploads, sparse files, the index made in one reading, an
image as one flat file. Does not know who may read what.
"""
