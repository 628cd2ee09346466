"""Encode, downsample, decode: the work on pixels, behind one protocol."""
