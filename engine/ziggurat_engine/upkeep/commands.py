"""Which options have `ziggurat-engine check`, `repair` and `backup`, and what do they print?

Imports at the top are light, like those of cli.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ziggurat_engine.cgroup import cores
from ziggurat_engine.errors import ZigguratError

if TYPE_CHECKING:
    from ziggurat_engine.upkeep.findings import Finding

DEFECTS = 1
CANNOT = 2
STOPPED = 130


class Bar:
    """A progress bar on stderr, where that is a terminal; findings pass it by."""

    def __init__(self, label: str, *, quiet: bool) -> None:
        self._label = label
        self._shown = not quiet and sys.stderr.isatty()
        self._bar: click._termui_impl.ProgressBar[int] | None = None

    def show(self, done: int, of: int) -> None:
        """So much is done."""
        if not self._shown:
            return
        if self._bar is None:
            self._bar = click.progressbar(length=of, label=self._label, file=sys.stderr)
        self._bar.length = of
        self._bar.update(done - self._bar.pos)
        self._bar.render_progress()

    def end(self) -> None:
        """No more of it."""
        if self._bar is not None:
            self._bar.render_finish()
            self._bar = None


def fail(message: str) -> None:
    """Says why it can't be done; exit code CANNOT."""
    click.echo(f"Error: {message}", err=True)
    raise SystemExit(CANNOT)


_LOG = click.option(
    "--log",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    envvar="ZIGGURAT_LOG",
    help="Directory of the write-ahead log.  [default: DIR/log]",
)
_THREADS = click.option(
    "--threads", type=click.IntRange(1, 1024), default=cores, help="[default: all cores]"
)


@click.command("check")
@click.argument("path", type=click.Path(path_type=Path), metavar="DIR")
@_LOG
@click.option("--pixels", is_flag=True, help="Compare each level with what the one below makes.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a finding.")
@_THREADS
@click.option("--quiet", "-q", is_flag=True, help="No progress bar, no summary, defects alone.")
def check_command(
    path: Path, log: Path | None, pixels: bool, as_json: bool, threads: int, quiet: bool
) -> None:
    """Check that a data directory, or any OME-Zarr, is whole; nothing is changed.

    Also beside a server that uses it. Reads every shard's index and decodes every chunk; reads
    documents, the state database, the log. Exits with 0 where nothing is wrong, 1 where
    something is, 2 where that can't be told.
    """
    from ziggurat_engine.upkeep.check import Progress, check

    bar = Bar("checking", quiet=quiet)
    progress = Progress(tell=bar.show)
    defects = 0
    try:
        for finding in check(path, log=log, pixels=pixels, threads=threads, progress=progress):
            defects += finding.defect
            if finding.defect or not quiet:
                bar.end()
                _say(finding, as_json=as_json)
    except KeyboardInterrupt:
        bar.end()
        click.echo("stopped", err=True)
        raise SystemExit(STOPPED) from None
    except (ZigguratError, OSError) as error:
        bar.end()
        fail(str(error))
    bar.end()
    if not quiet:
        said = f"{defects} defects" if defects else "nothing is wrong"
        click.echo(f"{progress.done} pieces checked: {said}", err=True)
    raise SystemExit(DEFECTS if defects else 0)


def _say(finding: Finding, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(finding.as_json()))
    else:
        click.echo(f"{finding}\n    {finding.remedy}")


@click.command("repair")
@click.argument("path", type=click.Path(path_type=Path), metavar="DIR")
@_LOG
@click.option("--pixels", is_flag=True, help="Mend levels that are not what the one below makes.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@_THREADS
@click.option("--quiet", "-q", is_flag=True, help="No progress bar.")
def repair_command(
    path: Path, log: Path | None, pixels: bool, dry_run: bool, threads: int, quiet: bool
) -> None:
    """Check a data directory that no server uses, and mend what can be mended.

    Chunks above level 0 are made anew of the level below. What is broken of level 0 is put
    aside in DIR/quarantine, and the levels are made without it; nothing is deleted.
    Documents are written anew where the image says what they are. Exits with 0 where no
    defect is left, 1 where one is, 2 where nothing could be done. May be stopped and run again.
    """
    from ziggurat_engine.upkeep.check import Progress
    from ziggurat_engine.upkeep.findings import Finding
    from ziggurat_engine.upkeep.repair import repair

    bar = Bar("checking", quiet=quiet)
    left = 0
    try:
        for said in repair(
            path,
            log_path=log,
            pixels=pixels,
            dry_run=dry_run,
            threads=threads,
            progress=Progress(tell=bar.show),
        ):
            bar.end()
            if isinstance(said, Finding):
                left += 1
                _say(said, as_json=False)
            else:
                click.echo(f"{'would mend' if dry_run else 'mended'}: {said.path}: {said.what}")
    except KeyboardInterrupt:
        bar.end()
        click.echo("stopped; the same command goes on from here", err=True)
        raise SystemExit(STOPPED) from None
    except (ZigguratError, OSError) as error:
        bar.end()
        fail(str(error))
    bar.end()
    if left:
        click.echo(f"{left} defects can't be mended", err=True)
    raise SystemExit(DEFECTS if left else 0)


@click.command("backup")
@click.argument("path", type=click.Path(path_type=Path), metavar="DIR")
@click.argument("target", type=click.Path(path_type=Path), metavar="DEST")
@_LOG
@click.option("--link", is_flag=True, help="Hard links in place of copies, on the same disk.")
@_THREADS
@click.option("--quiet", "-q", is_flag=True, help="No progress, no summary.")
def backup_command(
    path: Path, target: Path, log: Path | None, link: bool, threads: int, quiet: bool
) -> None:
    """Copy a data directory, also beside a server that uses it, so that a server may use the copy.

    DEST gets all that was durable when the command began. It is empty, not there, or an
    earlier backup of DIR, of which what did not change since is left. Stopped in whatever way, the
    same command goes on, and no server takes DEST before it is whole. Images that were adopted
    lie elsewhere, and are to be copied on their own.
    """
    from ziggurat_engine.upkeep.backup import backup

    shown = not quiet and sys.stderr.isatty()

    def tell(files: int) -> None:
        if shown and files % 100 == 0:
            click.echo(f"\r{files} files", nl=False, err=True)

    try:
        done = backup(path, target, log=log, link=link, threads=threads, tell=tell)
    except KeyboardInterrupt:
        click.echo("stopped; the same command goes on from here", err=True)
        raise SystemExit(STOPPED) from None
    except (ZigguratError, OSError) as error:
        fail(str(error))
    if not quiet:
        click.echo(
            f"{done.images} images, {done.files} files, {done.files_copied} of them copied"
            f" ({done.bytes_copied / 1e6:.1f} MB) in {done.seconds:.1f} s; {done.noted} chunks"
            " changed meanwhile: the levels above them are made anew by the server"
        )
