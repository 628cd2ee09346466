"""Which image names are safe to become paths on every file system?

A name is 1 to MAX_SEGMENTS segments joined by "/". Names are kept in Unicode
normalisation form C, so that two spellings of the same text are the same image.
"""

from __future__ import annotations

import unicodedata

from ziggurat_engine.errors import InvalidArgument

MAX_SEGMENTS = 16
MAX_SEGMENT_BYTES = 128

# Devices that Windows can't name a file after, not even with an extension.
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul"]
    + [f"{device}{n}" for device in ("com", "lpt") for n in range(1, 10)]
)
_FORBIDDEN = frozenset('<>:"\\|?*')


def check_name(name: str, field: str = "name") -> str:
    """Returns `name` in normal form.

    Raises InvalidArgument, naming `field`, for an empty name, too many or too long
    segments, traversal ("..", absolute or doubled slashes), hidden (leading "." or
    "_"), reserved or unprintable names, and characters some file systems refuse.
    """
    normal = unicodedata.normalize("NFC", name)
    segments = normal.split("/")
    if len(segments) > MAX_SEGMENTS:
        raise _bad(field, name, f"has {len(segments)} segments, more than {MAX_SEGMENTS}")
    for segment in segments:
        _check_segment(segment, name, field)
    return normal


def _check_segment(segment: str, name: str, field: str) -> None:
    if not segment:
        raise _bad(field, name, "has an empty segment")
    if len(segment.encode("utf-8", "surrogatepass")) > MAX_SEGMENT_BYTES:
        raise _bad(field, name, f"has a segment longer than {MAX_SEGMENT_BYTES} bytes")
    if segment[0] in "._":
        raise _bad(field, name, f"has the segment {segment!r}: a leading '.' or '_' is reserved")
    if segment[-1] in ". ":
        raise _bad(field, name, f"has the segment {segment!r}: a trailing '.' or space is lost")
    if segment[0] == " ":
        raise _bad(field, name, f"has the segment {segment!r}: a leading space")
    wrong = [ch for ch in segment if ch in _FORBIDDEN or not (ch.isprintable())]
    if wrong:
        raise _bad(field, name, f"has the character {wrong[0]!r}")
    # An image "a" lies in the directory "a.ome.zarr".
    reserved = segment.lower().endswith(".zarr") or segment.lower() == "zarr.json"
    if reserved or segment.split(".", maxsplit=1)[0].lower() in _DEVICES:
        raise _bad(field, name, f"has the reserved segment {segment!r}")


def _bad(field: str, name: str, what: str) -> InvalidArgument:
    shown = name if len(name) <= 80 else name[:77] + "..."
    return InvalidArgument(f"{field} {shown!r} {what}", field=field)
