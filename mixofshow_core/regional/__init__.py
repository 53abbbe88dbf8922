"""Where things go: the region schema, its raster, and attention that reads another text in each region.

Lives here: pure functions on strings, arrays and tensors. May not live here: the host, text encoding, node schemas.
"""
