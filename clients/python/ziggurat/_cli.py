"""The command `ziggurat`; here only what works without the extra `cli`."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command; exits with 1 and one line on an error, 2 on wrong usage."""
    try:
        from ziggurat._commands import cli
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.split(".")[0] == "ziggurat":
            raise
        sys.exit(
            f"ziggurat: {missing.name} is missing; the command needs the extra 'cli':"
            " pip install 'ziggurat-client[cli]'"
        )
    cli(prog_name="ziggurat")


if __name__ == "__main__":
    main()
