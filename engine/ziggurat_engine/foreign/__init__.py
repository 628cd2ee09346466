"""How is read what others wrote: any OME-Zarr 0.4 and 0.5, any Zarr v2 and v3?"""
