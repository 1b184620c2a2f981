"""Contents on the catalog's disk: content store, resumable uploads, sparse files, the index of a content made in one pass,
and images as one flat file. Does not know who may read which content.
"""
