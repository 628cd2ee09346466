"""How is a real server run on slow disks?

    python -m ziggurat_engine.testing.slow_server --store 50000000 [--log 50000000] serve ...

The command ziggurat-engine over a SlowFs; --store and --log are bytes a second.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ziggurat_engine import cli

if TYPE_CHECKING:
    from ziggurat_engine.vfs import FileSystem


def main() -> None:
    """Takes the disks' rates off the command line and leaves the rest to the command."""
    parser = argparse.ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--store", type=float)
    parser.add_argument("--log", type=float)
    rates, rest = parser.parse_known_args()

    def slow_disks() -> FileSystem:
        # As late as in the command itself, see there.
        from ziggurat_engine.testing.slow import Disk, SlowFs

        return SlowFs(
            store=Disk(rates.store) if rates.store else None,
            log=Disk(rates.log) if rates.log else None,
        )

    cli.main(rest, prog_name="ziggurat-engine", obj=slow_disks)


if __name__ == "__main__":
    main()
