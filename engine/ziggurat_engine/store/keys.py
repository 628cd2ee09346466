"""How is the object of a chunk, or of a shard, named below its array?"""

from __future__ import annotations

from dataclasses import dataclass

from ziggurat_engine.region import Shape


@dataclass(frozen=True, slots=True)
class Keys:
    """A chunk key encoding: "c" and "/" are Zarr v3's default, "" and "." Zarr v2's."""

    prefix: str
    separator: str

    def name(self, index: Shape) -> str:
        """The path of the object, relative to the array's directory."""
        joined = self.separator.join(map(str, index))
        return f"{self.prefix}{self.separator}{joined}" if self.prefix else joined or "0"

    def index(self, name: str) -> Shape | None:
        """The index of which `name` is the name; None where it is none."""
        numbers = name.removeprefix(f"{self.prefix}{self.separator}" if self.prefix else "")
        try:
            index = tuple(map(int, numbers.split(self.separator)))
        except ValueError:
            return None
        return index if self.name(index) == name else None


DEFAULT_KEYS = Keys("c", "/")
