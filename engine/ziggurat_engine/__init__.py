"""Ziggurat's engine: keeps microscopy images as OME-Zarr, with an exact pyramid."""

from importlib.metadata import version

__version__ = version("ziggurat-engine")
