"""What does each command of `ziggurat` do?

Commands talk to the server through the public client, print results on standard
output and everything else on standard error.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import click
import tifffile  # noqa: F401  put and get need it: its absence is said at the start
from PIL import Image as _picture  # noqa: F401, N813  preview needs it, likewise

import ziggurat
from ziggurat import _options
from ziggurat._preview import render
from ziggurat._show import bytes_text, image_tables, images_table, progress_bar, status_table, write
from ziggurat._tiff import TiffStack
from ziggurat._tiffout import write_tiff

DEFAULT_SERVER = "127.0.0.1:7447"


class _Group(click.Group):
    """Turns the errors a user can meet into one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ziggurat.ZigguratError as error:
            raise click.ClickException(str(error)) from error
        except BrokenPipeError:
            raise
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(f"{where}{error.strerror or error}") from error


def _connected(command: Callable[..., None]) -> Callable[..., None]:
    """Gives `command` a client, of the --server before or after its name."""

    @click.option("--server", metavar="HOST:PORT", help="As before the command.")
    @click.pass_context
    @functools.wraps(command)
    def run(ctx: click.Context, /, server: str | None, **options: Any) -> None:
        before, settings = ctx.obj
        with ziggurat.connect(server or before, **settings) as client:
            command(client, **options)

    return run


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--server",
    envvar="ZIGGURAT_SERVER",
    default=DEFAULT_SERVER,
    show_default=True,
    metavar="HOST:PORT",
    help="The server; also ZIGGURAT_SERVER.",
)
@click.option(
    "--token-file",
    type=click.File(),
    metavar="FILE",
    help='File with the token ("-": standard input); or ZIGGURAT_TOKEN, the token itself.',
)
@click.option("--ca", type=click.Path(), help="Whom to trust, PEM: TLS; also ZIGGURAT_CA.")
@click.option("--cert", type=click.Path(), help="Certificate to show, PEM; also ZIGGURAT_CERT.")
@click.option("--key", type=click.Path(), help="Its private key, PEM; also ZIGGURAT_KEY.")
@click.option("--tls/--no-tls", default=None, help="TLS, trusting whom this machine trusts.")
@click.option(
    "--insecure",
    is_flag=True,
    default=None,
    help="Let the token go over plain text to other machines; also ZIGGURAT_INSECURE=1.",
)
@click.version_option(package_name="ziggurat-client", prog_name="ziggurat")
@click.pass_context
def cli(ctx: click.Context, /, server: str, token_file: TextIO | None, **settings: Any) -> None:
    """Look at, fill and read the images of a Ziggurat server."""
    # No --token: other users of the machine see what a command is given.
    token = None if token_file is None else token_file.read().strip()
    ctx.obj = server, {"token": token, **settings}


@cli.command("ls")
@click.argument("prefix", default="")
@_connected
def list_images(client: ziggurat.Client, prefix: str) -> None:
    """List the images at or below PREFIX, all without one."""
    write(images_table(client.list(prefix)))


@cli.command()
@click.argument("name")
@_connected
def info(client: ziggurat.Client, name: str) -> None:
    """Show the axes, layout and levels of image NAME and its size on disk."""
    for table in image_tables(client.open(name, measure=True)):
        write(table)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("name")
@click.option("--series", default=0, show_default=True, help="Which image of the file.")
@click.option(
    "--voxel-size",
    type=_options.axis_values,
    metavar="AXIS=SIZE,...",
    help="Instead of the file's: z=0.5,y=0.1,x=0.1",
)
@click.option("--unit", help="Of --voxel-size along z, y and x: micrometer")
@click.option(
    "--chunk",
    type=_options.integers,
    metavar="N,N,...",
    help="Pixels of a chunk along each axis: 1,64,256,256",
)
@click.option(
    "--shard", type=_options.size, metavar="SIZE", help="The most raw bytes of a shard: 512MiB"
)
@click.option(
    "--shard-chunks",
    type=_options.integers,
    metavar="N,N,...",
    help="Or chunks of a shard along each axis: 1,4,8,8",
)
@click.option("--codec", default="auto", help="blosc-zstd, blosc-lz4, zstd, gzip (:LEVEL), none")
@click.option("--levels", type=click.IntRange(1, 32), help="Resolution levels with level 0.")
@click.option("--labels", is_flag=True, help="Each value is the name of an object.")
@click.option("--downsampling", help="mean, median, mode, min, max, stride; for labels mode.")
@click.option("--deferred", is_flag=True, help="Make levels when 'ziggurat build' asks for them.")
@_connected
def put(
    client: ziggurat.Client,
    file: Path,
    name: str,
    series: int,
    voxel_size: dict[str, float] | None,
    unit: str | None,
    chunk: tuple[int, ...] | None,
    shard: int | None,
    shard_chunks: tuple[int, ...] | None,
    codec: str,
    levels: int | None,
    labels: bool,
    downsampling: str | None,
    deferred: bool,
) -> None:
    """Make image NAME of a TIFF file: ImageJ, OME or plain."""
    with TiffStack(file, series=series) as stack:
        image = client.create(
            name,
            axes=stack.axes,
            shape=stack.shape,
            dtype=stack.dtype,
            voxel_size=voxel_size or stack.voxel_size,
            unit=stack.unit if voxel_size is None else unit,
            channels=stack.channels,
            chunk_shape=chunk,
            shard=shard,
            shard_chunks=shard_chunks,
            codec=codec,
            levels=levels,
            kind="labels" if labels else "image",
            downsampling=downsampling,
            pyramid="deferred" if deferred else "live",
        )
        try:
            _send(stack, image)
        except (ziggurat.ZigguratError, OSError) as error:
            hint = f"{name} is incomplete, 'ziggurat rm {name}' removes it"
            raise click.ClickException(f"{error}; {hint}") from error
    click.echo(f"{image.name}: {image.axes} {image.shape} {image.dtype.name},", nl=False)
    click.echo(f" {len(image.levels)} levels, {bytes_text(stack.nbytes)}")


@cli.command()
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False, writable=True, path_type=Path))
@click.option("--level", type=click.IntRange(0), help="0, full resolution, if nothing is said.")
@click.option(
    "--resolution",
    type=_options.resolution,
    metavar="SIZE | AXIS=SIZE,...",
    help="The coarsest level that is so fine, in axis units: 2.5, or z=4,y=1",
)
@click.option(
    "--max-voxels", type=click.IntRange(1), help="The finest level with no more in the box."
)
@click.option(
    "--box",
    type=_options.box,
    metavar="A:B,...",
    help='In pixels of --level, or else of level 0: "0:10,:,5:20"',
)
@click.option(
    "--physical",
    type=_options.intervals,
    metavar="AXIS=A:B,...",
    help="Instead, in axis units: z=2:4.5,x=0:30",
)
@click.option("--level0", is_flag=True, help="--box is in pixels of level 0, whatever --level is.")
@click.option(
    "--steps",
    type=_options.steps,
    metavar="AXIS=N,...",
    help="Every n-th pixel: z=4,y=2",
)
@click.option("--max", "projection", flag_value="max", help="The largest along --along.")
@click.option("--min", "projection", flag_value="min", help="The smallest.")
@click.option("--mean", "projection", flag_value="mean", help="The mean.")
@click.option("--along", metavar="AXES", help="Axes that become one pixel: z, or tz")
@click.option("--dtype", help="Of the file: uint8. Values are rounded and clipped.")
@click.option(
    "--window",
    type=_options.pair,
    metavar="LOW,HIGH",
    help="Stretched over the range of the type: 100,2000",
)
@click.option("--exact", is_flag=True, help="Wait until the level is exact there.")
@click.option(
    "--encoding",
    type=click.Choice(["auto", "raw", "blosc"]),
    default="auto",
    show_default=True,
    help="How pixels travel.",
)
@_connected
def get(
    client: ziggurat.Client,
    name: str,
    file: Path,
    box: tuple[slice, ...] | None,
    **options: Any,
) -> None:
    """Write a box of image NAME to a TIFF file, ImageJ or OME.

    Options are those of Image.read: the level is chosen, the box is placed in it, steps are
    taken, axes are projected, values are converted.
    """
    image = client.open(name)
    given = {option: value for option, value in options.items() if value is not None}
    with progress_bar(f"reading {name}") as (advance, set_total):
        kind = write_tiff(image, file, box=box, begin=set_total, progress=advance, **given)
    click.echo(f"{file}: {kind} TIFF, {bytes_text(file.stat().st_size)}")


@cli.command()
@click.argument("name")
@click.argument("file", type=click.Path(dir_okay=False, writable=True, path_type=Path))
@click.option("--height", type=click.IntRange(32, 4096), default=384, help="Pixels of each level.")
@_connected
def preview(client: ziggurat.Client, name: str, file: Path, height: int) -> None:
    """Draw the middle slice of each level of image NAME side by side."""
    try:
        render(client.open(name), file, height=height)
    except ValueError as error:
        if isinstance(error, ziggurat.ZigguratError):
            raise
        raise click.ClickException(f"{file}: {error}") from error
    click.echo(str(file))


@cli.command("rm")
@click.argument("name")
@click.option("--yes", "-y", is_flag=True, help="Don't ask.")
@_connected
def remove(client: ziggurat.Client, name: str, yes: bool) -> None:
    """Delete image NAME with all its pixels.

    An image that is adopted is only forgotten: its files stay where they are.
    """
    if not yes:
        image = client.open(name)
        what = f"{name}, {image.shape} {image.dtype.name}, {bytes_text(image.level(0).nbytes)}"
        kept = f"forget {what}, which stays in {image.adopted_from}"
        click.confirm(f"{kept if image.adopted_from else f'delete {what}'}?", abort=True)
    client.delete(name)


@cli.command()
@_connected
def status(client: ziggurat.Client) -> None:
    """Show how the server is."""
    write(status_table(client.status(), client.server))


@cli.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Also what is not stale.")
@click.option("--up-to-level", type=click.IntRange(0), help="Enough if the levels up to it are.")
@click.option("--method", help="From now on by mean, median, mode, min, max, stride or gaussian.")
@_connected
def build(
    client: ziggurat.Client, name: str, force: bool, up_to_level: int | None, method: str | None
) -> None:
    """Make every level of image NAME exact and stored."""
    last = None
    with progress_bar(f"building {name}", unit="chunks") as (advance, set_total):
        done = 0
        for last in client.open(name).build_pyramid(
            force=force, up_to_level=up_to_level, method=method
        ):
            set_total(last.chunks_total)
            advance(last.chunks_done - done)
            done = last.chunks_done
    click.echo(f"{name}: {last.chunks_done if last else 0} chunks built")


def _send(stack: TiffStack, image: ziggurat.Image) -> None:
    axes = stack.axes[:-2]
    with progress_bar(f"writing {image.name}") as (advance, set_total):
        set_total(stack.nbytes)
        with image.writer() as writer:
            for plane in stack.planes():
                place: dict[str, Any] = dict(zip(axes, plane.index, strict=True))
                writer.write(plane.pixels, **place)
                advance(plane.pixels.nbytes)
