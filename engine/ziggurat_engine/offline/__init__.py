"""Pyramids of anybody's Zarr, built and looked at without a server."""
