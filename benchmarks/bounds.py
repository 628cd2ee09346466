"""Does the server's memory stay within its budget when its disk can't keep up?

    uv run python -m benchmarks.bounds --streams 8 --store-mb-per-second 50 --cache 512MiB

A real server whose store, and log where asked for, takes only so many bytes a second
(ziggurat_engine.testing.slow), and writers that never wait by themselves. What the
server holds is sampled from before the first write until it has stored everything and
ended: anonymous and shared memory (RssAnon + RssShmem), which is all that is its own.
Pages of files, which the system takes back when it wants, do not count. Through shared memory
(--transport) the windows of the clients are seen by the server, too, and count as held; they
are allowed beside --excess.

Exits with 1 where the peak passes the cache's budget by more than is allowed. The last
line is JSON with everything.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import ziggurat
from pydantic import ByteSize, TypeAdapter
from ziggurat._writer import Transport

from benchmarks import _machine
from benchmarks._pressing import DEPTH, Result, Task
from benchmarks._server import ServerProcess, exit_on_sigterm, held_bytes

MIB = 2**20
SAMPLE_SECONDS = 0.05
_SIZES = TypeAdapter(ByteSize)


def size(text: str) -> int:
    """Bytes of "512MiB"."""
    return int(_SIZES.validate_python(text))


def _frame(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return int(height), int(width)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bounds", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--streams", type=int, default=8, help="writers, an image each")
    parser.add_argument("--processes", type=int, default=2, help="that the writers run in")
    parser.add_argument("--store-mb-per-second", type=float, default=50, help="MB = 10^6 bytes")
    parser.add_argument("--log-mb-per-second", type=float, help="as fast as it is, if not given")
    parser.add_argument("--cache", type=size, default=512 * MIB, help="budget of the server")
    parser.add_argument("--excess", type=size, default=300 * MIB, help="allowed above the budget")
    parser.add_argument("--seconds", type=float, default=60, help="how long to write")
    parser.add_argument("--frame", type=_frame, default=(2048, 2048), help="Y x X pixels")
    parser.add_argument("--boxes", action="store_true", help="boxes of any place and size")
    parser.add_argument("--codec", default="blosc-lz4")
    parser.add_argument("--window-mib", type=int, default=64, help="of each writer")
    parser.add_argument("--strip-kib", type=int, help="size of the messages; the client picks")
    parser.add_argument("--transport", choices=get_args(Transport), default="grpc")
    parser.add_argument("--durability", choices=("durable", "received"), default="durable")
    parser.add_argument("--data", type=Path, help="directory for the server's data")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the server"
    )
    return parser.parse_args()


@dataclass(slots=True)
class Peaks:
    """Bytes. idle: before the first write; chunks: dirty and clean, as the server says."""

    idle: int = 0
    peak: int = 0
    peak_at_seconds: float = 0.0
    chunks: int = 0
    samples: int = 0


class Sampler:
    """Watches a server from its own thread, until that is gone."""

    def __init__(self, server: ServerProcess) -> None:
        self._pid = server.pid
        self.peaks = Peaks(idle=held_bytes(server.pid))
        self._start = time.monotonic()
        self._client = ziggurat.connect(server.address)
        self._asking = threading.Event()
        self._threads = [
            threading.Thread(target=self._watch, daemon=True),
            threading.Thread(target=self._ask, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def stop_asking(self) -> None:
        """No call is made any more."""
        self._asking.set()
        self._threads[1].join()
        self._client.close()

    def join(self) -> None:
        """Returns once the server is gone."""
        self._threads[0].join()

    def _watch(self) -> None:
        peaks = self.peaks
        while True:
            try:
                held = held_bytes(self._pid)
            except (OSError, LookupError):
                return
            peaks.samples += 1
            if held > peaks.peak:
                peaks.peak, peaks.peak_at_seconds = held, time.monotonic() - self._start
            time.sleep(SAMPLE_SECONDS)

    def _ask(self) -> None:
        while not self._asking.wait(0.25):
            cache = self._client.status().cache
            self.peaks.chunks = max(self.peaks.chunks, cache.dirty_bytes + cache.clean_bytes)


def press(arguments: argparse.Namespace, directory: Path) -> tuple[Result, Peaks]:
    """One run in a new directory."""
    program = ["-m", "ziggurat_engine.testing.slow_server"]
    program += ["--store", str(arguments.store_mb_per_second * 1e6)]
    if arguments.log_mb_per_second is not None:
        program += ["--log", str(arguments.log_mb_per_second * 1e6)]
    serve = ["--cache-bytes", str(arguments.cache)]
    serve += [word for setting in arguments.set for word in ("--set", setting)]
    names = [f"bounds-{n}" for n in range(arguments.streams)]
    with (
        tempfile.TemporaryDirectory(prefix="ziggurat-bounds-", dir=directory) as made,
        ServerProcess(
            Path(made, "data"), Path(made, "log"), program=program, arguments=serve
        ) as server,
    ):
        with ziggurat.connect(server.address) as client:
            for name in names:
                client.create(
                    name,
                    axes="zyx",
                    shape=(DEPTH, *arguments.frame),
                    dtype="uint16",
                    codec=arguments.codec,
                )
        sampler = Sampler(server)
        processes = [
            subprocess.Popen(
                _command(arguments, server.address, tuple(names[n :: arguments.processes])),
                stdout=subprocess.PIPE,
                text=True,
            )
            for n in range(min(arguments.processes, arguments.streams))
        ]
        try:
            said = [process.communicate()[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        if any(process.returncode for process in processes):
            raise SystemExit("a process of writers failed")
        sampler.stop_asking()
        server.stop(600)
        sampler.join()
    results = [Result(**json.loads(text.splitlines()[-1])) for text in said]
    together = Result(
        seconds=max(result.seconds for result in results),
        received_bytes=sum(result.received_bytes for result in results),
        durable_bytes=sum(result.durable_bytes for result in results),
        reconnects=sum(result.reconnects for result in results),
    )
    return together, sampler.peaks


def _command(arguments: argparse.Namespace, server: str, names: tuple[str, ...]) -> list[str]:
    task = Task(
        server=server,
        names=names,
        frame=arguments.frame,
        boxes=arguments.boxes,
        seconds=arguments.seconds,
        window_mib=arguments.window_mib,
        strip_kib=arguments.strip_kib,
        durability=arguments.durability,
        transport=arguments.transport,
    )
    return [sys.executable, "-m", "benchmarks._pressing", json.dumps(asdict(task))]


def main() -> None:
    """Runs the benchmark as the command line says."""
    arguments = _arguments()
    exit_on_sigterm()
    directory = (arguments.data or Path(tempfile.gettempdir())).absolute()
    directory.mkdir(parents=True, exist_ok=True)
    result, peaks = press(arguments, directory)
    excess = peaks.peak - arguments.cache
    allowed = arguments.excess
    if arguments.transport == "shared_memory":
        allowed += arguments.streams * arguments.window_mib * MIB
    held = excess <= allowed
    received = result.received_bytes / result.seconds / 1e6
    print(
        f"peak {peaks.peak >> 20} MiB after {peaks.peak_at_seconds:.1f} s, budget"
        f" {arguments.cache >> 20} MiB, excess {excess / MIB:.0f} MiB of"
        f" {allowed >> 20} allowed: {'held' if held else 'PASSED'}\n"
        f"idle {peaks.idle >> 20} MiB, chunks at most {peaks.chunks >> 20} MiB,"
        f" {peaks.samples} samples; received {received:.0f} MB/s,"
        f" durable {result.durable_bytes / result.seconds / 1e6:.0f} MB/s,"
        f" {result.reconnects} reconnects"
    )
    given: dict[str, Any] = {k: v for k, v in vars(arguments).items() if k != "data"}
    print(
        json.dumps(
            {
                "benchmark": "bounds",
                "arguments": given,
                "held": held,
                "excess_bytes": excess,
                "received_mb_per_second": received,
                **asdict(result),
                "peaks": asdict(peaks),
                "machine": _machine.facts(),
            }
        )
    )
    raise SystemExit(not held)


if __name__ == "__main__":
    main()
