"""Which options have `ziggurat-engine build`, `inspect` and `adopt`, and what do they print?

Imports at the top are light, like those of cli.py.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from ziggurat_engine.cgroup import cores
from ziggurat_engine.errors import ZigguratError

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


class Numbers(click.ParamType[tuple[int, ...]]):
    """Whole numbers like 64x128x128."""

    name = "AxBxC"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """See click.ParamType."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(n) for n in str(value).lower().split("x"))
        except ValueError:
            numbers = ()
        if not numbers or min(numbers) < 1:
            self.fail(f"{value!r} is not like 64x128x128", param, ctx)
        return numbers


class Scale(click.ParamType[tuple[float, ...]]):
    """Numbers like 0.5,0.1,0.1."""

    name = "A,B,C"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """See click.ParamType."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(n) for n in str(value).split(","))
        except ValueError:
            numbers = ()
        if not numbers or not all(0 < n < float("inf") for n in numbers):
            self.fail(f"{value!r} is not like 0.5,0.1,0.1, all above 0", param, ctx)
        return numbers


class Bytes(click.ParamType[int]):
    """A size like 1GiB."""

    name = "SIZE"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """See click.ParamType."""
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", str(value).strip().lower())
        if not found or not float(found[1]):
            self.fail(f"{value!r} is not a size like 512MiB or 1GiB", param, ctx)
        return int(float(found[1]) * _UNITS[found[2]])


def command(tune: Callable[[], None]) -> click.Command:
    """`build`; `tune` starts the process anew with settings of malloc, once."""

    @click.command()
    @click.argument("path", type=click.Path(path_type=Path))
    @click.option(
        "--out",
        type=click.Path(path_type=Path),
        help="Make the image there, with a copy of level 0, and leave PATH alone.",
    )
    @click.option(
        "--levels",
        type=click.IntRange(1, 32),
        help="Levels in all.  [default: until the coarsest is no more than a chunk]",
    )
    @click.option(
        "--smallest",
        type=click.IntRange(1),
        metavar="PIXELS",
        help="Stop once no spatial axis is longer.",
    )
    @click.option(
        "--factors",
        type=Numbers(),
        multiple=True,
        help="Binning along z, y, x, or along all axes; again for further levels, the last"
        " one stays.  [default: 2; z once its pixels are below twice as long as those of y, x]",
    )
    @click.option(
        "--method", default="", help="How windows become a pixel.  [default: mean; mode of labels]"
    )
    @click.option("--axes", default="", help='"zyx", "tczyx".  [default: as the image says]')
    @click.option("--scale", type=Scale(), default=(), help="Pixel size along all axes.")
    @click.option("--unit", default="", help='Of the spatial axes: "micrometer".')
    @click.option("--chunks", type=Numbers(), help="Of the new levels.  [default: as level 0]")
    @click.option("--shards", help="Of the new levels, or none.  [default: as level 0]")
    @click.option(
        "--codec", help="blosc-lz4, blosc-zstd:3, zstd, gzip, none.  [default: as level 0]"
    )
    @click.option("--memory", type=Bytes(), default="1GiB", show_default=True)
    @click.option(
        "--threads",
        type=click.IntRange(1, 1024),
        default=cores,
        help="[default: all cores]",
    )
    @click.option("--force", is_flag=True, help="Make all levels above 0 anew.")
    @click.option("--quiet", "-q", is_flag=True, help="No progress bar, no summary.")
    def build(
        path: Path,
        out: Path | None,
        levels: int | None,
        smallest: int | None,
        factors: tuple[tuple[int, ...], ...],
        method: str,
        axes: str,
        scale: tuple[float, ...],
        unit: str,
        chunks: tuple[int, ...] | None,
        shards: str | None,
        codec: str | None,
        memory: int,
        threads: int,
        force: bool,
        quiet: bool,
    ) -> None:
        """Complete the pyramid of any OME-Zarr 0.4 or 0.5, or Zarr array, without a server.

        PATH is a multiscale group, a group with an array 0, or that array. Levels that
        are missing are made beside it, in bounded memory, each the downsample of the one
        below. Stopped in whatever way, the same command goes on where it was.
        """
        tune()
        from ziggurat_engine.foreign import codecs
        from ziggurat_engine.offline.build import Wish
        from ziggurat_engine.offline.build import build as run

        try:
            wish = Wish(
                levels=levels or 0,
                smallest=smallest or 0,
                factors=factors,
                axes=axes,
                scale=scale,
                unit=unit,
                chunks=chunks,
                shards=_shards(shards),
                codec=codecs.parse(codec) if codec else None,
                method=method,
                memory=memory,
                threads=threads,
                force=force,
            )
            with _Bar(quiet) as bar:
                built = run(
                    path,
                    wish,
                    out=out,
                    progress=bar.show,
                    say=lambda text: None if quiet else click.echo(text, err=True),
                )
        except ZigguratError as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:
            raise click.ClickException(f"{error}; the same command goes on from here") from None
        except KeyboardInterrupt:
            click.echo("stopped; the same command goes on from here", err=True)
            raise SystemExit(130) from None
        if quiet:
            return
        for number, (name, shape) in enumerate(built.levels):
            note = "made" if number >= len(built.levels) - built.made else "there"
            click.echo(f"level {number}  {name}  {' x '.join(map(str, shape))}  {note}")
        if built.made:
            click.echo(
                f"{built.seconds:.2f} s, {built.source_bytes / built.seconds / 1e6:.0f} MB/s of"
                f" the level below; {built.threads} threads; memory: {built.planned_bytes >> 20}"
                f" MiB planned, {built.peak_rss_bytes >> 20} MiB in all at most"
            )
        else:
            click.echo("nothing was missing")

    return build


class _Bar:
    """A progress bar on stderr, where that is a terminal."""

    def __init__(self, quiet: bool) -> None:
        self._shown = not quiet and sys.stderr.isatty()
        self._bar: click._termui_impl.ProgressBar[int] | None = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.render_finish()

    def show(self, done: int, of: int) -> None:
        """So many tasks are done."""
        if not self._shown:
            return
        if self._bar is None:
            self._bar = click.progressbar(length=of, label="building", file=sys.stderr)
        self._bar.update(done - self._bar.pos)
        self._bar.render_progress()


def _shards(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    if text == "none":
        return ()
    try:
        return Numbers().convert(text, None, None)
    except click.BadParameter as error:
        raise click.BadParameter(error.message, param_hint="--shards") from None


@click.command("inspect")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option(
    "--png",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw which chunks are there, and how large, of each level.",
)
def inspect_command(path: Path, as_json: bool, png: Path | None) -> None:
    """Say what is on disk of any OME-Zarr or Zarr array, without a server.

    Reads metadata, file sizes and shard indices, never pixels. Where PATH holds several
    images (a plate, a bioformats2raw layout) they are listed.
    """
    import json

    from ziggurat_engine.offline import picture
    from ziggurat_engine.offline.inspect import inspect, several

    try:
        images = several(path)
        if images:
            names = [str(image.relative_to(path.absolute())) for image in images]
            click.echo(json.dumps({"images": names}, indent=2) if as_json else "\n".join(names))
            return
        found = inspect(path, maps=png is not None)
        if png is not None:
            picture.draw(found, png)
            for level in found["levels"]:
                level.pop("map", None)
    except ImportError as missing:
        if missing.name is None or missing.name.split(".")[0] != "PIL":
            raise
        raise click.ClickException(
            "PIL is missing; --png needs pip install 'ziggurat-engine[png]'"
        ) from None
    except ZigguratError as error:
        raise click.ClickException(str(error)) from None
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{error}") from None
    if as_json:
        click.echo(json.dumps(found, indent=2))
    else:
        _table(found)


@click.command("adopt")
@click.argument("path")
@click.argument("name")
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    envvar="ZIGGURAT_DATA",
    required=True,
    help="Directory that holds the images of the server.",
)
@click.option("--writable", is_flag=True, help="Take writes, and keep the levels exact above them.")
@click.option(
    "--method",
    default="",
    help="How windows become a pixel above what is written.  [default: as the image says]",
)
def adopt_command(path: str, name: str, data: Path, writable: bool, method: str) -> None:
    """Serve an OME-Zarr 0.4 or 0.5 in place, as the image NAME.

    PATH is a multiscale group on this machine, whoever wrote it; `ziggurat-engine build`
    makes levels that are missing. Nothing is ever written to it, unless --writable. No server
    may use DATA meanwhile. `ziggurat rm NAME` forgets the image, and leaves PATH as it is.
    """
    from ziggurat_engine.offline.adopt import adopt

    try:
        image = adopt(data, path, name, writable=writable, method=method)
    except (ZigguratError, OSError) as error:
        raise click.ClickException(str(error)) from None
    adopted = image.adopted
    levels = len(adopted.levels) if adopted is not None else 0
    how = f"writable, by {image.downsampling}" if writable else "read-only"
    click.echo(
        f"{image.name}: {_by(image.shape)} {image.data_type},"
        f" {levels} level{'s' * (levels != 1)}, {how}"
    )


def _table(found: dict[str, Any]) -> None:
    ome = f"OME-Zarr {found['ome_version']}" if found["ome_version"] else "no OME metadata"
    click.echo(f"{found['path']}\nZarr v{found['zarr_format']}, {ome}, axes {found['axes']}\n")
    head = (
        *("level", "shape", "chunk", "shard", "codec", "by", "chunks", "files", "stored"),
        *("ratio", "chunk min/median/max", "plane", "cube", "line"),
    )
    rows = [head]
    for level in found["levels"]:
        chunks, sizes, cost = level["chunks"], level["chunk_bytes"], level["read_per_voxel"]
        present = "?" if chunks["present"] is None else chunks["present"]
        rows.append(
            (
                level["path"],
                _by(level["shape"]),
                _by(level["chunk"]),
                _by(level["shard"]) if level["shard"] else "-",
                level["codec"],
                _by(level["factors"]) if level["factors"] else "-",
                f"{present}/{chunks['expected']}",
                str(level["files"]),
                _size(level["stored_bytes"]),
                f"{level['ratio']:.2f}" if level["ratio"] else "-",
                "/".join(_size(sizes[k]) for k in ("smallest", "median", "largest"))
                if sizes
                else "-",
                *(f"{cost[k]:.4g}" for k in ("plane", "cube", "line")),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    for row in rows:
        click.echo("  ".join(map(str.ljust, row, widths)).rstrip())
    for level in found["levels"]:
        for text in level["broken"]:
            click.echo(f"broken: {level['path']}/{text}")
    for name in found["missing_levels"]:
        click.echo(f"missing: level {name} is named in the metadata and not there")
    totals = found["totals"]
    click.echo(f"\n{totals['files']} files, {_size(totals['stored_bytes'])}", nl=False)
    if totals["overhead"] and totals["theoretical_overhead"]:
        click.echo(
            f"; all levels take {totals['overhead']:.3f} x level 0,"
            f" {totals['theoretical_overhead']:.3f} in theory",
            nl=False,
        )
    click.echo("\nplane, cube, line: voxels read for each voxel asked for, estimated")


def _by(numbers: Sequence[int]) -> str:
    return "x".join(map(str, numbers))


def _size(nbytes: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024:
            return f"{nbytes:.4g} {unit}"
        nbytes /= 1024
    return f"{nbytes:.4g} TiB"
