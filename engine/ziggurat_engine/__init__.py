"""Ziggurat's engine: keeps microscopy images as OME-Zarr, with an exact pyramid."""


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Imported when asked for: it takes longer than all else that a command needs at first.
    from importlib.metadata import version

    return version("ziggurat-engine")
