"""Settle and decode on NVIDIA cards; nothing above imports CuPy."""
