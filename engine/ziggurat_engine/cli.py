"""What can the command ziggurat-engine do?

Imports at the top are light: `serve` re-executes itself before the heavy ones. That is before
it knows its settings, too: who does not want it pays for it, not who does.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ziggurat_engine.errors import ZigguratError
from ziggurat_engine.offline import commands
from ziggurat_engine.security import commands as security
from ziggurat_engine.upkeep import commands as upkeep

if TYPE_CHECKING:
    from ziggurat_engine.vfs import FileSystem

# Large messages come and go many times a second. Left alone, malloc maps and unmaps
# memory for each, and page faults then take half of the CPU time of receiving.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "33554432",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": "67108864",
    "MALLOC_ARENA_MAX": "1",
    # Chunks in huge pages: a third less time in the kernel, and in copying out of them. The price
    # is the first touch, where a virtual machine has given free ones back to its host.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
# Names what was added to the environment.
_TUNED = "_ZIGGURAT_MALLOC_TUNED"

STOP_SIGNALS = frozenset((signal.SIGTERM, signal.SIGINT))


def tune_malloc() -> None:
    """Starts this process again with MALLOC, once."""
    if sys.platform == "linux" and _TUNED not in os.environ:
        added = MALLOC.keys() - os.environ.keys()
        _start_again({**MALLOC, **os.environ, _TUNED: " ".join(added)})


def _leave_malloc() -> None:
    """Starts this process again as it was, where tune_malloc did."""
    if added := os.environ.get(_TUNED, "").split():
        kept = {name: value for name, value in os.environ.items() if name not in added}
        _start_again({**kept, _TUNED: ""})


def _start_again(environment: dict[str, str]) -> None:
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="ziggurat-engine", prog_name="ziggurat-engine")
def main() -> None:
    """Ziggurat: a storage engine for microscopy images."""


@main.command()
@click.option("--data", type=click.Path(path_type=Path), help="Directory that holds the images.")
@click.option("--listen", help="HOST:PORT; port 0 takes a free one.  [default: 127.0.0.1:7447]")
@click.option("--cache-bytes", help='Memory for chunks ("4GiB").  [default: a quarter of all]')
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any other setting, as in the TOML file; may be repeated.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    envvar="ZIGGURAT_CONFIG",
    help="TOML file with settings.",
)
@click.option("--verbose", "-v", is_flag=True, help="Log more.")
@click.pass_obj
def serve(
    files: Callable[[], FileSystem] | None,
    data: Path | None,
    listen: str | None,
    cache_bytes: str | None,
    settings: tuple[str, ...],
    config: Path | None,
    verbose: bool,
) -> None:
    """Serve images over gRPC until SIGTERM.

    Every setting may also come from the environment (ZIGGURAT_DATA, ZIGGURAT_LISTEN,
    ...) or from a TOML file; flags win over the environment, the environment over the
    file. `ziggurat-engine settings` lists them all.
    """
    # files: makes the file system to serve from, where a test brings its own.
    tune_malloc()
    from pydantic import ValidationError

    from ziggurat_engine.config import load

    flags: dict[str, object] = {"data": data, "listen": listen, "cache_bytes": cache_bytes}
    for item in settings:
        name, equals, value = item.partition("=")
        if not equals:
            raise click.UsageError(f"--set {item}: not NAME=VALUE")
        flags[name] = value
    try:
        loaded = load(config, **flags)
    except ValidationError as error:
        problems = "; ".join(": ".join((*map(str, e["loc"]), e["msg"])) for e in error.errors())
        raise click.UsageError(f"settings: {problems}") from None
    except (OSError, ValueError) as error:
        raise click.UsageError(f"settings: {error}") from None
    if not loaded.tune_malloc:
        _leave_malloc()
    # Before the imports that start threads: one that does not block them would die of them,
    # and the process with it.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    from ziggurat_engine.server.logs import configure
    from ziggurat_engine.server.serve import serve as run

    configure(loaded.log_format, "debug" if verbose else loaded.log_level)

    try:
        code = run(loaded, STOP_SIGNALS, files() if files is not None else None)
    except (OSError, ZigguratError) as error:
        raise click.ClickException(str(error)) from None
    raise SystemExit(code)


@main.command()
@click.argument("file", required=False, type=click.Path(path_type=Path), metavar="[FILE.tif]")
@click.option(
    "--keep",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep the OME-Zarr and a preview of it in this directory.",
)
@click.option(
    "--mib",
    type=click.IntRange(1, 1024),
    default=512,
    show_default=True,
    help="MiB of simulated camera frames, where no file is given.",
)
def demo(file: Path | None, keep: Path | None, mib: int) -> None:
    """Start a server, stream an image in, check every level of its pyramid.

    The image is FILE.tif (ImageJ, OME or plain) or what a simulated camera sees. Exits
    with 0 only if everything read back was exact. Settings in the environment are not heeded.
    """
    try:
        from ziggurat_engine.demo.process import exit_on_sigterm
        from ziggurat_engine.demo.run import DemoError, run
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.split(".")[0] == "ziggurat_engine":
            raise
        raise click.ClickException(
            f"{missing.name} is missing; the demo needs pip install 'ziggurat-engine[demo]'"
        ) from None
    exit_on_sigterm()
    # Server and client are the demo's own: what the environment sets is meant for others.
    for name in [name for name in os.environ if name.startswith("ZIGGURAT_")]:
        del os.environ[name]
    try:
        run(file, keep, mib)
    except DemoError as error:
        raise click.ClickException(str(error)) from None


@main.command()
@click.argument("address", default="127.0.0.1:7447", envvar="ZIGGURAT_LISTEN")
@click.option("--timeout", type=click.FloatRange(0.1), default=5.0, show_default=True, help="s")
@click.option(
    "--ca",
    type=click.Path(path_type=Path),
    envvar=["ZIGGURAT_CA", "ZIGGURAT_TLS_CERT"],
    help="Whom to trust, PEM: speaks TLS. Also ZIGGURAT_CA, or the server's own ZIGGURAT_TLS_CERT.",
)
@click.option(
    "--cert",
    type=click.Path(path_type=Path),
    envvar="ZIGGURAT_CERT",
    help="Certificate to show, PEM, where the server asks for one; also ZIGGURAT_CERT.",
)
@click.option(
    "--key", type=click.Path(path_type=Path), envvar="ZIGGURAT_KEY", help="Its key; ZIGGURAT_KEY."
)
@click.option(
    "--server-name",
    envvar="ZIGGURAT_SERVER_NAME",
    help="Whom the server's certificate names, where that is not ADDRESS; ZIGGURAT_SERVER_NAME.",
)
def health(
    address: str,
    timeout: float,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
    server_name: str | None,
) -> None:
    """Ask the server at ADDRESS whether it is ready; exits with 0 where it is, else with 1.

    It is from when the log is replayed until it is told to stop. ADDRESS is HOST:PORT; where
    it is not given ZIGGURAT_LISTEN, or 127.0.0.1:7447. No token is needed.
    """
    from ziggurat_engine.server.health import ask

    if (cert is None) != (key is None):
        raise click.UsageError("--cert and --key are needed together")
    try:
        said = ask(address, timeout, ca=ca, cert=cert, key=key, server_name=server_name)
    except OSError as error:
        raise click.ClickException(str(error)) from None
    click.echo(said)
    raise SystemExit(0 if said == "SERVING" else 1)


@main.command("settings")
def list_settings() -> None:
    """List all settings, their defaults and what they mean."""
    from ziggurat_engine.config import Settings

    for name, field in Settings.model_fields.items():
        default = (
            "required" if field.is_required() else field.get_default(call_default_factory=True)
        )
        click.echo(f"{name} = {default}\n    {field.description or ''}")


@main.command("metrics")
def list_metrics() -> None:
    """List all metrics, their types, labels and meanings, as a table of Markdown."""
    from ziggurat_engine.server.metrics import table

    click.echo(table())


main.add_command(commands.command(tune_malloc))
main.add_command(commands.inspect_command)
main.add_command(commands.adopt_command)
main.add_command(upkeep.check_command)
main.add_command(upkeep.repair_command)
main.add_command(upkeep.backup_command)
main.add_command(security.token)
main.add_command(security.certs)
