"""Does a token count from when it is made until it is revoked or over, and no longer?"""

from __future__ import annotations

import json
import os
import posixpath
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import ziggurat
from hypothesis import given
from hypothesis import strategies as st
from ziggurat_engine import errors
from ziggurat_engine.security.caller import Caller, Scope, prefix_of
from ziggurat_engine.security.tokens import TokenFile, Tokens
from ziggurat_proto.v1 import read_pb2, write_pb2

from tests.security.calls import SERVICE, Guarded
from tests.support.command import run
from tests.support.raw import failure
from tests.support.server import ServerProcess
from tests.support.waiting import SECONDS, until

Code = grpc.StatusCode
# Seconds until a token is over, until it was not over too soon: a busy machine takes its time.
LONGER = (2, 4, 8, 16, 32)


def test_the_command_makes_lists_and_revokes(guarded: Guarded) -> None:
    """While the server runs; it is shown once, and kept as a hash."""
    data = guarded.server.data
    made = ["token", "create", "--data", data, "--name", "camera 1", "--scope", "write"]
    token = run("ziggurat-engine", *made, "--prefix", "lab/", "--expires", "12h").stdout.strip()
    with guarded.connect(token) as client:
        assert [image.name for image in client.list()] == ["lab", "lab/run"]
        listed = run("ziggurat-engine", "token", "list", "--json", ZIGGURAT_DATA=str(data)).stdout
        (entry,) = [each for each in json.loads(listed) if each["name"] == "camera 1"]
        assert (entry["scope"], entry["prefix"]) == ("write", "lab")
        assert 0 < entry["expires"] - time.time() <= 12 * 3600
        file = data / "tokens.json"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        secret = token.split("_", 2)[2]
        for text in (listed, file.read_text("utf-8"), guarded.server.stderr):
            assert secret not in text
        again = run("ziggurat-engine", *made, code=1)
        assert "there is a token 'camera 1'" in again.stderr
        run("ziggurat-engine", "token", "revoke", "--data", data, "camera 1")
        until(lambda: _refused(client), "the token to be revoked")
    assert (
        "no token 'camera 1'"
        in run("ziggurat-engine", "token", "revoke", "--data", data, "camera 1", code=1).stderr
    )


def _refused(client: ziggurat.Client) -> bool:
    try:
        client.list()
    except ziggurat.Unauthenticated:
        return True
    return False


def test_an_administrator_is_made_once(serve: Callable[..., ServerProcess]) -> None:
    first = serve(auth="token", cache_bytes="64MiB", kernels="reference")
    guarded = Guarded(first)
    guarded.close()
    first.stop()
    again = serve(data=first.data, auth="token", cache_bytes="64MiB", kernels="reference")
    assert "admin token" not in again.stderr
    with ziggurat.connect(again.address, token=guarded.admin_token) as client:
        assert client.status().images == 0
    # Nor is another made where all were revoked: that is somebody's wish.
    TokenFile(first.data).revoke("admin")
    again.stop()
    last = serve(data=first.data, auth="token", cache_bytes="64MiB", kernels="reference")
    assert "admin token" not in last.stderr


def write_stream(guarded: Guarded, token: str, stream_id: str) -> Any:
    """An open stream whose client says nothing more."""
    opening = write_pb2.Open(image="lab/run", stream_id=stream_id)

    def requests() -> Iterator[write_pb2.WriteRequest]:
        yield write_pb2.WriteRequest(open=opening)
        # This thread may come so far before the call has its name.
        known.wait(SECONDS)
        until(lambda: not call.is_active(), "the stream to end")

    known = threading.Event()
    stub = guarded.channel.stream_stream(
        f"/{SERVICE.full_name}/WriteStream",
        write_pb2.WriteRequest.SerializeToString,
        write_pb2.WriteResponse.FromString,
    )
    call = stub(requests(), metadata=guarded.caller(token).metadata, timeout=SECONDS)
    known.set()
    assert next(call).HasField("opened")
    return call


def brief_stream(guarded: Guarded) -> Any:
    """A stream whose token is over soon after."""
    for seconds in LONGER:
        token = guarded.token("brief", "write", "lab/", time.time() + seconds)
        try:
            return write_stream(guarded, token, "brief")
        except grpc.RpcError as late:
            if late.code() is not Code.UNAUTHENTICATED:
                raise
            guarded.tokens.revoke("brief")
    raise AssertionError(f"no stream was opened within {LONGER[-1]} s")


def ending(call: Any) -> str:
    """Why an idle stream is ended."""
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    found = failure(caught.value)
    assert (found.code, found.reason) == (Code.UNAUTHENTICATED, "UNAUTHENTICATED")
    return found.message


def test_a_stream_ends_with_its_right_though_nothing_is_said(guarded: Guarded) -> None:
    """Revoked or expired: the stream ends, and is free for another to resume."""
    call = write_stream(guarded, guarded.token("forgotten", "write", "lab/"), "forgotten")
    guarded.tokens.revoke("forgotten")
    assert "was revoked" in ending(call)
    assert "has expired" in ending(brief_stream(guarded))
    guarded.tokens.revoke("brief")

    def resumed(stream_id: str) -> bool:
        with guarded.connect() as client:
            try:
                client.open("lab/run").writer(stream_id).close()
            except ziggurat.StreamHeld:
                return False
            return True

    for stream_id in ("forgotten", "brief"):
        until(lambda: resumed(stream_id), "the stream to be free")  # noqa: B023


def test_a_writer_is_told_and_does_not_try_again(guarded: Guarded) -> None:
    token = guarded.token("short", "write", "lab/")
    with guarded.connect(token) as client:
        writer = client.open("lab/run").writer(retry_seconds=10 * SECONDS)
        writer.write_region(np.full((16, 16), 1, "uint16"), (0, 0))
        writer.flush()
        guarded.tokens.revoke("short")
        with pytest.raises(ziggurat.Unauthenticated, match="revoked") as caught:
            _write_on(writer)
        assert caught.value.sequence is not None
        writer.cancel()
        with pytest.raises(ziggurat.Unauthenticated):
            client.open("lab/run").read()


def _write_on(writer: ziggurat.Writer) -> None:
    while True:
        writer.write_region(np.full((16, 16), 1, "uint16"), (0, 0))


def test_a_read_ends_with_its_right(guarded: Guarded) -> None:
    """Before its next part: what is under way is not read to its end."""
    with guarded.connect() as client:
        image = client.create("lab/large", axes="zyx", shape=(512, 256, 512), dtype="uint16")
    token = guarded.token("reading", "read")
    stub = guarded.channel.unary_stream(f"/{SERVICE.full_name}/ReadRegion")
    request = read_pb2.ReadRequest(image=image.name).SerializeToString()
    call = stub(request, metadata=guarded.caller(token).metadata, timeout=SECONDS)
    assert next(call)
    guarded.tokens.revoke("reading")
    other = guarded.token("another", "read")
    with guarded.connect(other) as client:
        # The server has looked at its tokens again.
        client.list()
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert caught.value.code() is Code.UNAUTHENTICATED
    guarded.tokens.revoke("another")
    with guarded.connect() as client:
        client.delete(image.name)


def test_a_broken_file_changes_nothing_until_it_is_mended(guarded: Guarded) -> None:
    file = guarded.tokens.path
    whole = file.read_bytes()
    file.write_text("{")
    try:
        until(
            lambda: "tokens can't be read" in guarded.server.stderr or _listed(guarded),
            "word of it",
        )
        assert _listed(guarded) is None
    finally:
        file.write_bytes(whole)


def _listed(guarded: Guarded) -> None:
    with guarded.connect() as client:
        client.list()


BROKEN = {
    "not JSON": "{",
    "not ours": "[]",
    "no tokens": '{"format": 1}',
    "newer": '{"format": 2, "tokens": []}',
    "unknown scope": '{"format": 1, "tokens": [{"id": "a", "name": "a", "scope": "root",'
    ' "prefix": "", "created": 0, "expires": null, "salt": "", "hash": ""}]}',
    "missing": '{"format": 1, "tokens": [{"id": "a"}]}',
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_no_start_with_a_broken_file(tmp_path: Path, text: str) -> None:
    file = TokenFile(tmp_path)
    file.path.write_text(text)
    newer = '"format": 2' in text
    with pytest.raises(
        errors.UnsupportedVersion if newer else errors.Corrupt, match=r"tokens\.json"
    ):
        Tokens(file)
    # Nor is it written over.
    with pytest.raises(errors.DataError):
        file.create("a", Scope.READ)
    assert file.path.read_text() == text


def test_a_hash_alone_is_worth_nothing(tmp_path: Path) -> None:
    file = TokenFile(tmp_path)
    token, text = file.create("a", Scope.READ)
    server = Tokens(file)
    assert server.caller(text) == Caller(f"token:{token.id}", "a", Scope.READ)
    for wrong in (
        f"zgt_{token.id}_{token.hash}",
        f"zgt_{token.id}_",
        f"zgt_{token.id}",
        f"zgt_{token.name}_{text.split('_', 2)[2]}",
        text[:-1],
        text + "\u0131",
        text.upper(),
    ):
        with pytest.raises(errors.Unauthenticated):
            server.caller(wrong)
    again, _ = file.create("b", Scope.READ)
    assert again.salt != token.salt
    assert text not in repr(token)
    assert token.hash not in repr(token)


def test_expired_from_the_start(tmp_path: Path) -> None:
    file = TokenFile(tmp_path)
    _, text = file.create("a", Scope.READ, expires=time.time() - 1)
    with pytest.raises(errors.Unauthenticated, match="expired"):
        Tokens(file).caller(text)


@pytest.mark.parametrize("name", ["", 65 * "a", "a\nb", "a\0"])
def test_names_of_tokens(tmp_path: Path, name: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        TokenFile(tmp_path).create(name, Scope.READ)
    assert caught.value.field == "name"
    assert not TokenFile(tmp_path).path.exists()


@pytest.mark.parametrize("prefix", ["..", "lab/..", "/lab", "lab//", ".lab", "a\\b", "lab\0"])
def test_what_is_no_prefix(prefix: str) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        prefix_of(prefix)
    assert caught.value.field == "prefix"


def test_both_spellings_of_a_letter_are_the_same(tmp_path: Path) -> None:
    """The engine keeps names composed, whichever way they were typed."""
    file = TokenFile(tmp_path)
    _, text = file.create("a", Scope.READ, "labo\u0302/")
    caller = Tokens(file).caller(text)
    assert caller.covers("lab\u00f4/run")
    assert caller.covers("labo\u0302/run")
    assert not caller.covers("labo/run")


@given(st.lists(st.sampled_from(["", ".", "..", "lab", "lab2", "LAB", "run", "\0"]), max_size=6))
def test_what_is_covered_lies_below(segments: list[str]) -> None:
    """As a path of the file system, whatever a name is made of."""
    name = "/".join(segments)
    covered = Caller("k", "n", Scope.READ, "lab/run").covers(name)
    below = f"{posixpath.normpath(name)}/".startswith("lab/run/")
    assert below if covered else not below or posixpath.normpath(name) != name


def test_at_or_below() -> None:
    caller = Caller("k", "n", Scope.READ, prefix_of("a/b/"))
    assert all(map(caller.covers, ("a/b", "a/b/c", "a/b/labels/x")))
    assert not any(map(caller.covers, ("a", "a/bc", "a/b2/c", "b/a/b", "a/b/../c", "a/b/", "")))
    assert all(map(Caller("k", "n", Scope.READ).covers, ("a", "b/c")))


def test_a_file_that_can_be_read_again_counts(tmp_path: Path) -> None:
    """What kept it from being read (a mode, an owner, no descriptor left) need not change it."""
    file = TokenFile(tmp_path)
    token, text = file.create("camera", Scope.WRITE)
    tokens = Tokens(file)
    check = tokens.caller(text).check
    file.revoke(token.id)
    content = file.path.read_bytes()
    file.path.write_bytes(b"x" * len(content))
    times = file.path.stat()
    with pytest.raises(errors.Unauthenticated):
        tokens.caller("zgt_another_token")
    check()
    file.path.write_bytes(content)
    os.utime(file.path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(errors.Unauthenticated):
        tokens.caller("zgt_another_token")
    with pytest.raises(errors.Unauthenticated, match="revoked"):
        check()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_the_owner_of_the_file_stays(tmp_path: Path) -> None:
    file = TokenFile(tmp_path)
    file.create("camera", Scope.WRITE)
    os.chown(file.path, 7447, 7447)
    file.revoke("camera")
    found = file.path.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (7447, 7447, 0o600)
