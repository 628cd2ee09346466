"""How fast does a stack go in through gRPC, and what does that cost?

    uv run python -m benchmarks.ingest --shape 128x2048x2048 --codec blosc-lz4

A real server process, a client process and this harness run on the same machine. The
frames exist before the clock starts. It starts with the first write and is read twice:
when all is acknowledged as received (reads see it), and at Closed (all is stored and
every level is exact). With --durability durable, the default, all of it also went
through the write-ahead log. Rates are in MB/s of raw pixels of level 0, MB = 10^6 bytes. Some
boxes are read back and compared.

With --peer others write the same frames with the same chunks, shards, codec and levels,
without a server, in a process of their own (_ingest_peer.py); all take turns, and the levels of
the first turn are compared before any time is told. With --transport both the frames go through
gRPC and through shared memory in turns. The last line is JSON with everything.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
from ziggurat._writer import Transport

from benchmarks import _machine
from benchmarks._compare import differences
from benchmarks._ingest_peer import PEERS
from benchmarks._server import ServerError, ServerProcess, exit_on_sigterm, wait_at_rest
from benchmarks._writing import Task

CODECS = ("blosc-lz4", "blosc-zstd", "zstd", "none")
TRANSPORTS = get_args(Transport)
SHARED: Transport = "shared_memory"
NAME = "bench"
PEER_CHUNKS, PEER_SHARDS = (64, 128, 128), (64, 512, 512)


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(number) for number in text.lower().split("x"))
    except ValueError:
        shape = ()
    if len(shape) != 3 or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not like 128x2048x2048 (z, y, x)")
    return shape


def arguments_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """What `words`, or those of the command line, ask for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ingest", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--shape", type=_shape, default=(128, 2048, 2048), help="Z x Y x X pixels")
    parser.add_argument("--dtype", default="uint16", help="uint8, uint16, uint32, float32, ...")
    parser.add_argument("--codec", choices=CODECS, default="blosc-lz4")
    parser.add_argument("--chunks", type=_shape, help="pixels of a chunk; the server picks")
    parser.add_argument("--shards", type=_shape, help="pixels of a shard; the server picks")
    parser.add_argument("--streams", type=int, default=1, help="writers, a connection each")
    parser.add_argument("--channels", type=int, default=1, help="frames take turns at them")
    parser.add_argument("--window-mib", type=int, default=64, help="of each writer")
    parser.add_argument("--durability", choices=("durable", "received"), default="durable")
    parser.add_argument(
        "--transport",
        choices=(*TRANSPORTS, "both"),
        default="grpc",
        help="how pixels get to the server",
    )
    parser.add_argument("--repeat", type=int, default=1, help="runs, each with a new server")
    parser.add_argument(
        "--peer", action="append", default=[], choices=PEERS, help="to compare with"
    )
    parser.add_argument(
        "--data", type=Path, help="directory for the server's data; a new one in it"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the server"
    )
    arguments = parser.parse_args(words)
    if arguments.channels < 1 or arguments.shape[0] % arguments.channels:
        parser.error("--channels: frames have to be as many for each")
    if arguments.channels > 1 and (arguments.peer or arguments.chunks or arguments.shards):
        parser.error("--channels: not with --peer, --chunks or --shards, which are of three axes")
    if arguments.peer:
        if not arguments.codec.startswith("blosc-"):
            parser.error("--peer: only with a Blosc codec, which all of them write")
        arguments.chunks = arguments.chunks or PEER_CHUNKS
        arguments.shards = arguments.shards or PEER_SHARDS
    return arguments


def _task(
    arguments: argparse.Namespace,
    address: str,
    pid: int,
    transport: Transport = "grpc",
    mb_per_second: float = 0.0,
    *,
    checked: bool = True,
) -> Task:
    return Task(
        server=address,
        server_pid=pid,
        name=NAME,
        shape=arguments.shape,
        dtype=arguments.dtype,
        codec=arguments.codec,
        chunks=arguments.chunks,
        shards=arguments.shards,
        streams=arguments.streams,
        window_mib=arguments.window_mib,
        durability=arguments.durability,
        transport=transport,
        mb_per_second=mb_per_second,
        channels=arguments.channels,
        checked=checked,
    )


def _result(module: str, *words: str) -> dict[str, Any]:
    """What a process of the benchmark prints last."""
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{module} failed with exit code {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _turn(
    arguments: argparse.Namespace, directory: Path, *, compare: bool
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """One run of all, each in a new directory: ours, and the peers' by name."""
    raw = math.prod(arguments.shape) * np.dtype(arguments.dtype).itemsize
    with tempfile.TemporaryDirectory(prefix="ziggurat-ingest-", dir=directory) as made:
        slower = None
        if arguments.transport == "both":
            with tempfile.TemporaryDirectory(dir=made) as beside:
                slower = run(arguments, Path(beside), "grpc")
        ours = run(arguments, Path(made), SHARED if slower else arguments.transport)
        if slower is not None:
            ours["grpc"] = slower
            for reached in ("received", "closed"):
                name = f"{reached}_times_as_fast_as_grpc"
                ours[name] = slower[f"{reached}_seconds"] / ours[f"{reached}_seconds"]
        group = Path(made, "data", "images", f"{NAME}.ome.zarr")
        levels = len(ours["levels"])
        peers = {}
        for name in arguments.peer:
            os.sync()  # nobody waits for what another left to be written
            path = Path(made, name)
            task = json.dumps(asdict(_task(arguments, "", 0)))
            found = _result("benchmarks._ingest_peer", name, task, str(path), str(levels))
            found["mb_per_second"] = raw / found["seconds"] / 1e6
            found["cpu_seconds_per_gb"] = found["cpu_seconds"] / raw * 1e9
            found["times_as_fast"] = found["seconds"] / ours["closed_seconds"]
            if slower is not None:
                found["times_as_fast_grpc"] = found["seconds"] / slower["closed_seconds"]
            if compare:
                for what, which in (("level 0", range(1)), ("above", range(1, levels))):
                    print(f"{name}, {what}: {differences(group, path / 'image', which)}")
            peers[name] = found
            shutil.rmtree(path)
    return ours, peers


def run(
    arguments: argparse.Namespace,
    directory: Path,
    transport: Transport = "grpc",
    mb_per_second: float = 0.0,
    program: Sequence[str] = (),
) -> dict[str, Any]:
    """One run of ours: the figures of _writing.Result, and rates. mb_per_second: as of Task.

    program: what Python runs in place of ziggurat-engine; then no pixel is looked at.
    """
    serve = [word for setting in arguments.set for word in ("--set", setting)]
    os.sync()
    program = program or ("-m", "ziggurat_engine")
    checked = program == ("-m", "ziggurat_engine")
    with ServerProcess(
        directory / "data", directory / "log", arguments=serve, program=program
    ) as server:
        wait_at_rest(server.pid)
        pid = server.pid
        task = _task(arguments, server.address, pid, transport, mb_per_second, checked=checked)
        found = _result("benchmarks._writing", json.dumps(asdict(task)))
    raw = math.prod(arguments.shape) * np.dtype(arguments.dtype).itemsize
    found["received_mb_per_second"] = raw / found["received_seconds"] / 1e6
    found["closed_mb_per_second"] = raw / found["closed_seconds"] / 1e6
    found["first_mb_per_second"] = raw / found["first_closed_seconds"] / 1e6
    # Log and store together, and what SQLite and file systems add.
    found["disk_mb_per_second"] = found["disk_written_bytes"] / found["closed_seconds"] / 1e6
    for side in ("client", "server"):
        found[f"{side}_cpu_seconds_per_gb"] = found[f"{side}_cpu_seconds"] / raw * 1e9
    found["ratio"] = raw / found["level0_stored_bytes"]
    return found


def _summary(runs: list[dict[str, Any]]) -> dict[str, float]:
    """The median of each figure that has one."""
    names = [name for name, value in runs[0].items() if isinstance(value, int | float)]
    return {name: statistics.median(run[name] for run in runs) for name in names}


def _tell(run: dict[str, Any], which: str) -> None:
    print(
        f"run {which}: received {run['received_mb_per_second']:.0f} MB/s,"
        f" closed {run['closed_mb_per_second']:.0f} MB/s;"
        f" CPU s/GB: server {run['server_cpu_seconds_per_gb']:.2f},"
        f" client {run['client_cpu_seconds_per_gb']:.2f};"
        f" peak RSS MiB: server {run['server_rss_bytes'] >> 20},"
        f" client {run['client_rss_bytes'] >> 20} (without the frames);"
        f" ratio {run['ratio']:.2f}; new server: closed {run['first_mb_per_second']:.0f} MB/s\n"
        f"  acknowledged after p50 {run['latency_p50_seconds'] * 1e3:.0f} ms,"
        f" p99 {run['latency_p99_seconds'] * 1e3:.0f} ms,"
        f" max {run['latency_max_seconds'] * 1e3:.0f} ms;"
        f" {run['disk_mb_per_second']:.0f} MB/s to the disk",
        flush=True,
    )


def _tell_peer(name: str, found: dict[str, Any]) -> None:
    print(
        f"  {name}: {found['mb_per_second']:.0f} MB/s; CPU s/GB {found['cpu_seconds_per_gb']:.2f};"
        f" peak RSS {found['peak_rss_bytes'] >> 20} MiB; {found['stored_bytes'] / 1e6:.0f} MB in"
        f" {found['files']} files",
        flush=True,
    )


def main() -> None:
    """Runs the benchmark as the command line says."""
    arguments = arguments_of()
    exit_on_sigterm()
    directory = (arguments.data or Path(tempfile.gettempdir())).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    machine = _machine.facts()
    memcpy = _machine.memcpy_bytes_per_second()
    disk = _machine.disk_bytes_per_second(directory)
    raw = math.prod(arguments.shape) * np.dtype(arguments.dtype).itemsize
    print(
        f"{'x'.join(map(str, arguments.shape))} {arguments.dtype} ({raw / 1e6:.0f} MB),"
        f" codec {arguments.codec}, {arguments.streams} stream(s); {machine['cpu']},"
        f" {machine['cores']} cores; memcpy {memcpy / 1e6:.0f} MB/s,"
        f" disk {disk / 1e6:.0f} MB/s",
        flush=True,
    )
    runs: list[dict[str, Any]] = []
    peers: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.peer}
    for number in range(1, arguments.repeat + 1):
        try:
            ours, theirs = _turn(arguments, directory, compare=number == 1)
        except ServerError as error:
            raise SystemExit(str(error)) from None
        runs.append(ours)
        if "grpc" in ours:
            _tell(ours["grpc"], f"{number}, grpc")
        _tell(ours, f"{number}, {arguments.transport}".replace("both", SHARED))
        for name, found in theirs.items():
            peers[name].append(found)
            _tell_peer(name, found)
    median = _summary(runs)
    rates = {name: median[name] * 1e6 for name in median if name.endswith("mb_per_second")}
    print(
        f"median: received {median['received_mb_per_second']:.0f} MB/s,"
        f" closed {median['closed_mb_per_second']:.0f} MB/s"
        f" = {rates['closed_mb_per_second'] / memcpy:.3f} of memcpy,"
        f" {median['stored_bytes'] / 1e6:.0f} MB stored;"
        f" log and store wrote {rates['disk_mb_per_second'] / disk:.2f} of the disk's rate"
    )
    if arguments.transport == "both":
        for reached in ("received", "closed"):
            ratios = [run[f"{reached}_times_as_fast_as_grpc"] for run in runs]
            print(
                f"{reached}: shared memory is {statistics.median(ratios):.2f} x grpc"
                f" ({min(ratios):.2f} to {max(ratios):.2f})"
            )
    for name, found_runs in peers.items():
        for ratio, how in (("times_as_fast", ""), ("times_as_fast_grpc", ", through gRPC")):
            ratios = [found[ratio] for found in found_runs if ratio in found]
            if ratios:
                print(
                    f"ziggurat{how} is {statistics.median(ratios):.2f} x {name}"
                    f" ({min(ratios):.2f} to {max(ratios):.2f})"
                )
    given = {name: value for name, value in vars(arguments).items() if name != "data"}
    result = {
        "benchmark": "ingest",
        "arguments": given,
        "raw_bytes": raw,
        "median": median,
        "memcpy_bytes_per_second": memcpy,
        "disk_bytes_per_second": disk,
        "closed_per_memcpy": rates["closed_mb_per_second"] / memcpy,
        "written_per_disk": rates["disk_mb_per_second"] / disk,
        "machine": machine,
        "runs": runs,
        "peers": peers,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
