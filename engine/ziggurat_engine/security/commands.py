"""What do `ziggurat-engine token` and `ziggurat-engine certs` do?"""

from __future__ import annotations

import datetime
import getpass
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ziggurat_engine.errors import ZigguratError

if TYPE_CHECKING:
    from ziggurat_engine.config import Settings
    from ziggurat_engine.security.tokens import Token

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}

_data = click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Directory that holds the images; also ZIGGURAT_DATA, or the TOML file.",
)
_config = click.option(
    "--config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    envvar="ZIGGURAT_CONFIG",
    help="TOML file with settings.",
)


@contextmanager
def _said() -> Iterator[None]:
    """Errors that a user can meet become one line and exit code 1."""
    try:
        yield
    except (ZigguratError, OSError) as error:
        raise click.ClickException(str(error)) from None


@click.group()
def token() -> None:
    """Make, list and revoke the tokens of a data directory.

    A server over it takes them where its setting auth is "token", and hears of changes
    within seconds.
    """


@token.command()
@click.option("--name", required=True, help="Whose it is, for lists and the audit log.")
@click.option(
    "--scope",
    type=click.Choice(["read", "write", "admin"]),
    required=True,
    help="write may also read; admin may also delete.",
)
@click.option("--prefix", default="", help="Only for images at or below this path.  [all]")
@click.option("--expires", default="90d", show_default=True, help='"90d", "12h" or "never".')
@_data
@_config
def create(
    name: str, scope: str, prefix: str, expires: str, data: Path | None, config: Path | None
) -> None:
    """Make a token, and print it; it is shown only now."""
    from ziggurat_engine.security.caller import SCOPES
    from ziggurat_engine.security.tokens import TokenFile

    until = _until(expires)
    settings = _settings(data, config)
    with _said():
        made, text = TokenFile(settings.data).create(name, SCOPES[scope], prefix, until)
    _audit(settings, "token.create", made)
    click.echo(text)


@token.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON, one array.")
@_data
@_config
def list_tokens(as_json: bool, data: Path | None, config: Path | None) -> None:
    """List the tokens, without their secrets."""
    from ziggurat_engine.security.tokens import TokenFile

    with _said():
        tokens = TokenFile(_settings(data, config).data).read()
    if as_json:
        click.echo(json.dumps([each.model_dump(exclude={"salt", "hash"}) for each in tokens]))
        return
    for each in tokens:
        when = "expired" if each.expired else f"expires {_date(each.expires)}"
        click.echo(f"{each.id}  {each.scope:5}  {each.prefix or '(all)'}  {each.name}  {when}")


@token.command()
@click.argument("which", metavar="ID-OR-NAME")
@_data
@_config
def revoke(which: str, data: Path | None, config: Path | None) -> None:
    """Revoke a token: its calls end within seconds, and no more are taken."""
    from ziggurat_engine.security.tokens import TokenFile

    settings = _settings(data, config)
    with _said():
        gone = TokenFile(settings.data).revoke(which)
    _audit(settings, "token.revoke", gone)
    click.echo(f"revoked {gone.id}  {gone.name}", err=True)


@click.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@click.option("--host", "hosts", multiple=True, help="Name or IP of the server; may be repeated.")
@click.option("--client", default="Ziggurat client", show_default=True, help="Name of the client.")
@click.option("--days", type=float, default=365.0, show_default=True, help="How long they count.")
def certs(directory: Path, hosts: tuple[str, ...], client: str, days: float) -> None:
    """Make a CA of your own in DIR, and certificates for a server and a client.

    A CA that is there is used again. The server's certificate counts for localhost, this
    machine's name and each --host. Whoever has ca-key.pem can be any server and any client.
    """
    try:
        from ziggurat_engine.security.certificates import make
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.split(".")[0] == "ziggurat_engine":
            raise
        raise click.ClickException(
            f"{missing.name} is missing; certs needs pip install 'ziggurat-engine[certs]'"
        ) from None
    own = ("localhost", "127.0.0.1", "::1", socket.gethostname())
    with _said():
        for path in make(directory, hosts=(*own, *hosts), client=client, days=days):
            click.echo(path)


def _settings(data: Path | None, config: Path | None) -> Settings:
    from pydantic import ValidationError

    from ziggurat_engine.config import load

    try:
        settings = load(config, data=data)
    except ValidationError as error:
        problems = "; ".join(": ".join((*map(str, e["loc"]), e["msg"])) for e in error.errors())
        raise click.UsageError(f"settings: {problems}") from None
    except (OSError, ValueError) as error:
        raise click.UsageError(f"settings: {error}") from None
    if not settings.data.is_dir():
        raise click.ClickException(f"there is no directory {settings.data}")
    return settings


def _until(text: str) -> float | None:
    if text == "never":
        return None
    found = re.fullmatch(r"(\d+)([smhd])", text)
    if found is None:
        raise click.BadParameter(f'{text!r} is not like "90d", "12h" or "never"')
    return time.time() + int(found[1]) * _UNITS[found[2]]


def _date(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="minutes")


def _audit(settings: Settings, event: str, changed: Token) -> None:
    from ziggurat_engine.security.audit import AuditLog

    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # in a container a number may have no name
        user = "unknown"
    AuditLog.of(settings, stream="stderr").record(
        event,
        by=user,
        key=f"user:{user}",
        origin="command line",
        result="OK",
        token=changed.id,
        name=changed.name,
        scope=changed.scope,
        prefix=changed.prefix,
        expires=changed.expires,
    )
