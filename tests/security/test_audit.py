"""Does every change leave its line: who, what, when, from where, and what came of it?"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import ziggurat
from ziggurat_engine.config import load
from ziggurat_engine.security.audit import AuditLog
from ziggurat_proto.v1 import service_pb2

from tests.security.calls import REQUESTS, Guarded
from tests.support.audit import audited
from tests.support.command import run
from tests.support.server import ServerProcess
from tests.support.waiting import until


def test_changes_and_nothing_else(guarded: Guarded) -> None:
    path = guarded.server.data / "audit.jsonl"
    with guarded.connect() as client:
        image = client.create("lab/new", axes="tyx", shape=(4, 8, 8), dtype="uint8")
        with image.writer("cam") as writer:
            writer.write(np.ones((8, 8), "uint8"), t=0)
            writer.skip(2)
        # The client goes on when it hears of the end, which is told after it.
        until(lambda: audited(path, event="stream.close", stream="cam"), "the end to be told")
        image.read()
        client.list()
        client.status()
        image.build_pyramid(method="median").wait()
        client.delete("lab/new")
        with pytest.raises(ziggurat.NotFound):
            client.delete("lab/new")
    found = audited(path, image="lab/new")
    assert [(line["event"], line["result"]) for line in found] == [
        ("image.create", "OK"),
        ("stream.open", "OK"),
        ("stream.close", "OK"),
        ("pyramid.build", "OK"),
        ("image.delete", "OK"),
        ("image.delete", "NOT_FOUND"),
    ]
    for line in found:
        assert (line["by"], line["image"]) == ("admin", "lab/new")
        assert line["key"].startswith("token:")
        assert line["from"].startswith("ipv4:127.0.0.1:")
        assert datetime.datetime.fromisoformat(line["time"]).tzinfo is not None
    create, opened, closed, build = found[:4]
    assert create["shape"] == [4, 8, 8]
    assert opened["stream"] == closed["stream"] == "cam"
    counts = {name: closed[name] for name in ("regions", "bytes", "skipped_frames", "durable")}
    assert counts == {"regions": 1, "bytes": 64, "skipped_frames": 2, "durable": 2}
    assert closed["outcome"] == "OUTCOME_COMPLETE"
    assert build["method"] == "DOWNSAMPLING_MEDIAN"
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_somebody_was_refused(guarded: Guarded) -> None:
    """Whom nobody knows leaves no line: he could fill the log with them."""
    path = guarded.server.data / "audit.jsonl"
    for who in (None, "zgt_0_0", guarded.people["reader"], guarded.people["boss"]):
        guarded.caller(who).refused("DeleteImage", service_pb2.DeleteImageRequest(name="other/run"))
        guarded.caller(who).refused("ReadRegion", REQUESTS["ReadRegion"]("other/run"))
    found = audited(path, event="image.delete", result="PERMISSION_DENIED")
    # What the first wanted was not even read: he may delete nothing.
    assert [(line["by"], line.get("image")) for line in found[-2:]] == [
        ("reader", None),
        ("boss", "other/run"),
    ]
    assert not audited(path, result="UNAUTHENTICATED")


def test_requests_that_say_anything(guarded: Guarded) -> None:
    """They are refused as ever, and leave a line that is no longer than others."""
    path = guarded.server.data / "audit.jsonl"
    boss = guarded.caller(guarded.admin_token)
    name = 10**6 * "a"
    for method, event in {
        "CreateImage": "image.create",
        "DeleteImage": "image.delete",
        "BuildPyramid": "pyramid.build",
        "WriteStream": "stream.close",
    }.items():
        boss.refused(method, REQUESTS[method](name))
        assert audited(path, event=event, image=name[:512] + "...")
    build = service_pb2.BuildPyramidRequest(image="lab/run", method=77)  # type: ignore[arg-type]
    assert boss.refused("BuildPyramid", build).code is grpc.StatusCode.INVALID_ARGUMENT
    assert audited(path, event="pyramid.build", method="77", result="INVALID_ARGUMENT")


def test_a_stream_that_was_left(guarded: Guarded) -> None:
    path = guarded.server.data / "audit.jsonl"
    with guarded.connect() as client:
        writer = client.open("lab/run").writer("left")
        writer.write_region(np.ones((16, 16), "uint16"), (0, 0))
        writer.flush()
        writer.cancel()

    def told() -> list[dict[str, Any]]:
        return audited(path, stream="left")

    until(lambda: len(told()) == 2, "the end of the stream to be told")
    assert (told()[1]["event"], told()[1]["result"]) == ("stream.close", "CANCELLED")
    assert told()[1]["durable"] == 1


def test_tokens_are_told_of(guarded: Guarded) -> None:
    data = guarded.server.data
    run("ziggurat-engine", "token", "create", "--data", data, "--name=t", "--scope=read")
    run("ziggurat-engine", "token", "revoke", "--data", data, "t")
    made, gone = audited(data / "audit.jsonl", name="t")
    assert (made["event"], gone["event"]) == ("token.create", "token.revoke")
    assert made["token"] == gone["token"]
    assert (made["name"], made["scope"], made["from"]) == ("t", "read", "command line")
    assert "hash" not in made


def test_names_can_forge_no_line(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "a", max_bytes=10**6, files=1)
    log.record(
        "e", by='x"\n{"by": "admin"}', key="k\u2028\x00", origin="o", result="OK", image="\ud800"
    )
    (line,) = audited(tmp_path / "a")
    assert line["by"] == 'x"\n{"by": "admin"}'


def test_full_files_are_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "a"
    log = AuditLog(path, max_bytes=1000, files=2)
    for number in range(40):
        log.record("e", by="b", key="k", origin="o", result="OK", number=number)
    files = [tmp_path / name for name in ("a.2", "a.1", "a")]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    kept = [line["number"] for file in files for line in audited(file)]
    assert kept == list(range(kept[0], 40))
    assert all(file.stat().st_size <= 1000 for file in files)


def test_standard_output(serve: Callable[..., ServerProcess]) -> None:
    server = serve(audit_log="-", cache_bytes="64MiB", kernels="reference")
    with ziggurat.connect(server.address) as client:
        client.create("a", axes="yx", shape=(4, 4), dtype="uint8")
    assert server.process.stdout is not None
    line = json.loads(os.read(server.process.stdout.fileno(), 10_000))
    assert (line["event"], line["by"], line["result"]) == ("image.create", "anonymous", "OK")
    assert not (server.data / "audit.jsonl").exists()


def test_a_log_that_cant_be_written_is_loud_and_stops_nothing(
    serve: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    server = serve(audit_log=tmp_path / "none" / "a", cache_bytes="64MiB", kernels="reference")
    with ziggurat.connect(server.address) as client:
        client.create("a", axes="yx", shape=(4, 4), dtype="uint8")
        assert [image.name for image in client.list()] == ["a"]
    said = [line for line in server.stderr.splitlines() if "the audit log can't be" in line]
    assert "[error " in said[0]
    assert "[ziggurat_engine.security.audit]" in said[0]
    assert '"event": "image.create"' in said[0]


def test_where_it_lies() -> None:
    settings = load(data="d", audit_log="elsewhere.jsonl")
    assert AuditLog.of(settings)._path == Path("elsewhere.jsonl")
    assert AuditLog.of(load(data="d"))._path == Path("d/audit.jsonl")
