"""Images as they lie on disk: objects, shards of encoded chunks, OME-Zarr documents."""
