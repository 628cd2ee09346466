"""Does a server stay up, small and right, whatever it is sent?

    python -m benchmarks.fuzz --minutes 10

A real server on this machine, and threads that send it requests of every method, write streams
in any order and bytes that are no HTTP/2 at all, as benchmarks/_fuzzing.py makes them. Each call
has a deadline. Counted are cases by method and status, and as failures:

    crash      the server process ended
    bug        INTERNAL or UNKNOWN, or DATA_LOSS of what is whole
    hang       a call that had not ended at its deadline, or that still has its thread soon after
    wrong      an image that nobody wrote to reads differently
    growth     memory or open files of the server, beside what it had after the first part

A seed (`--seed`) repeats the cases of a thread, not how threads meet. One JSON object on the last
line; exits with 1 on any failure, and names the requests that led to it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import ziggurat
from ziggurat_engine.spec import Array

from benchmarks._fuzzing import REQUESTS, SHAPE, WITNESS, Fuzzer

SERVICE = "/ziggurat.v1.Ziggurat/"
STREAMED = frozenset(("BuildPyramid", "ListFrames", "ReadRegion", "ReadRegions", "ReadPlane"))
# How often each is asked, and WriteStream and bytes of no protocol.
WEIGHTS = dict.fromkeys(REQUESTS, 2) | {"CreateImage": 5, "ReadRegion": 6, "ReadPlane": 4}
WEIGHTS |= {"WriteStream": 8, "bytes": 1, "GetStatus": 1, "ReadRegions": 4}
BUGS = frozenset(("INTERNAL", "UNKNOWN", "DATA_LOSS", "UNIMPLEMENTED"))
# The cache's budget, and what may lie beside it before holes are given back.
MOST_GROWTH_BYTES = (64 + 192) * 2**20
MOST_GROWTH_FILES = 64
# More than any call takes that does not wait for ever, on a busy machine.
DEADLINE_SECONDS = 60.0
SETTINGS = {
    "cache_bytes": "64MiB",
    "max_read_bytes": "8MiB",
    "max_batch_boxes": 500,
    "max_read_chunks": 2**15,
    "max_projected_bytes": "256MiB",
    "max_message_bytes": "1MiB",
    "log_segment_bytes": "8MiB",
    "max_log_bytes": "64MiB",
    "max_images": 100,
    "max_streams": 8,
    "max_calls": 16,
    "settle_idle_seconds": 0.3,
    "drain_seconds": 2,
    "max_open_shards": 32,
}


@dataclass
class Findings:
    """What came of it. All of `failures` say what was sent."""

    cases: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    memory_growth_bytes: int = 0
    file_growth: int = 0
    log: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def total(self) -> int:
        """Cases of all kinds."""
        return sum(self.cases.values())


class Target:
    """A server of its own, and the witness image in it."""

    def __init__(self, directory: Path, **settings: object) -> None:
        self.stderr = directory / "stderr"
        command = [sys.executable, "-m", "ziggurat_engine", "serve"]
        command += ["--data", str(directory / "data"), "--listen", "127.0.0.1:0"]
        command += [f"--set={name}={value}" for name, value in (SETTINGS | settings).items()]
        with self.stderr.open("ab") as stderr:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().decode().split()[-1]
        self.pixels = np.random.default_rng(1).integers(0, 2**16, SHAPE, "uint16")
        with ziggurat.connect(self.address) as client:
            image = client.create(WITNESS, axes="zyx", shape=SHAPE, dtype="uint16")
            with image.writer("only") as writer:
                writer.write_region(self.pixels, offset=(0, 0, 0))
            self.levels = self.read(client)

    def read(self, client: ziggurat.Client) -> list[Array]:
        """All levels of the witness."""
        image = client.open(WITNESS)
        return [image.level(level.index)[...] for level in image.levels]

    @property
    def memory_bytes(self) -> int:
        """What the process has in memory."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    @property
    def files(self) -> int:
        """What the process has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self) -> int:
        """Tells it to stop; its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(120)
        finally:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()


def fuzz(
    directory: Path,
    *,
    seconds: float,
    cases: int | None = None,
    threads: int = 3,
    seed: int = 0,
    say: bool = False,
) -> Findings:
    """Fuzzes a server in `directory` for so long, or for so many cases a thread."""
    target = Target(directory)
    found, began = Findings(), time.monotonic()
    try:
        # What is compiled, cached and pooled once is no growth.
        _part(target, found, seconds / 4, cases and cases // 4, threads, seed)
        memory, files = target.memory_bytes, target.files
        if say:
            print(f"first part: {found.total} cases; {memory >> 20} MiB, {files} files")
        _part(target, found, seconds * 3 / 4, cases and cases - cases // 4, threads, seed + 1000)
        _check(target, found)
        found.memory_growth_bytes = target.memory_bytes - memory
        found.file_growth = target.files - files
        if found.memory_growth_bytes > MOST_GROWTH_BYTES:
            found.failures.append(f"growth: {found.memory_growth_bytes} bytes")
        if found.file_growth > MOST_GROWTH_FILES:
            found.failures.append(f"growth: {found.file_growth} open files")
    except (ziggurat.ZigguratError, OSError) as error:
        found.failures.append(f"wrong: {error}")
    finally:
        crashed = target.process.poll()
        if crashed is not None:
            found.failures.append(f"crash: exit code {crashed}")
        code = target.stop()
        if crashed is None and code != 0:
            found.failures.append(f"crash: exit code {code} when told to stop")
    _, unexpected, log = target.stderr.read_text(errors="replace").partition("nobody expected")
    if unexpected:
        found.failures.append("bug: the server's log has an exception that nobody expected")
        found.log = log[:4000]
    found.seconds = time.monotonic() - began
    return found


def _part(
    target: Target, found: Findings, seconds: float, cases: int | None, threads: int, seed: int
) -> None:
    end = time.monotonic() + seconds
    with ThreadPoolExecutor(threads) as pool:
        work = [pool.submit(_work, target, found, end, cases, seed + k) for k in range(threads)]
        for done in work:
            done.result()


def _work(target: Target, found: Findings, end: float, cases: int | None, seed: int) -> None:
    fuzzer = Fuzzer(seed)
    channel: Any = grpc.insecure_channel(
        target.address,
        options=[("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)],
    )
    count = 0
    while time.monotonic() < end and (cases is None or count < cases):
        count += 1
        (method,) = fuzzer.rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
        began = time.monotonic()
        if method == "bytes":
            sent: list[bytes] = []
            code = _bytes(target.address, fuzzer.rng)
        elif method == "WriteStream":
            sent = list(fuzzer.stream())
            code = _stream(channel, sent, fuzzer.rng)
        else:
            sent = [fuzzer.request(method)]
            code = _call(channel, method, sent[0])
        with found.lock:
            found.cases[method] += 1
            found.codes[code] += 1
        wrong = "bug" if code in BUGS else "hang" if code == "DEADLINE_EXCEEDED" else ""
        if wrong:
            hexes = " ".join(part[:4000].hex() for part in sent)
            found.failures.append(
                f"{wrong}: {method} got {code} after {time.monotonic() - began:.1f} s: {hexes}"
            )
        if target.process.poll() is not None:
            found.failures.append(f"crash: behind {method}: " + " ".join(p.hex() for p in sent))
            break
    channel.close()


def _call(channel: Any, method: str, request: bytes) -> str:
    try:
        if method in STREAMED:
            for _ in channel.unary_stream(SERVICE + method)(request, timeout=DEADLINE_SECONDS):
                pass
        else:
            channel.unary_unary(SERVICE + method)(request, timeout=DEADLINE_SECONDS)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def _stream(channel: Any, messages: list[bytes], rng: random.Random) -> str:
    call = channel.stream_stream(SERVICE + "WriteStream")(iter(messages), timeout=DEADLINE_SECONDS)
    cancelled = rng.random() < 0.1
    try:
        for k, _ in enumerate(call):
            if cancelled and k:
                call.cancel()
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def _bytes(address: str, rng: random.Random) -> str:
    """Bytes that are no HTTP/2, or begin as if they were."""
    host, _, port = address.rpartition(":")
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
    with suppress(OSError), socket.create_connection((host, int(port)), DEADLINE_SECONDS) as line:
        line.sendall(preface * (rng.random() < 0.5) + rng.randbytes(rng.choice((1, 30, 3000))))
        line.shutdown(socket.SHUT_WR)
        line.settimeout(DEADLINE_SECONDS)
        try:
            while line.recv(4096):
                pass
        except TimeoutError:
            return "DEADLINE_EXCEEDED"
    return "closed"


def _check(target: Target, found: Findings) -> None:
    """Whether the server is as right and as free as before."""
    with ziggurat.connect(target.address, timeout_seconds=DEADLINE_SECONDS) as client:
        levels = target.read(client)
        same = len(levels) == len(target.levels) and all(
            np.array_equal(a, b) for a, b in zip(levels, target.levels, strict=True)
        )
        if not same:
            found.failures.append("wrong: the witness reads differently")
        status = client.status()
        end = time.monotonic() + DEADLINE_SECONDS
        while status.open_streams and time.monotonic() < end:
            time.sleep(0.1)
            status = client.status()
        if status.open_streams:
            found.failures.append(f"hang: {status.open_streams} streams are still held")
        # It still takes in what it did before.
        for image in reversed(client.list()):
            if image.name != WITNESS:
                with suppress(ziggurat.ZigguratError):
                    client.delete(image.name)
        image = client.create("behind", axes="zyx", shape=SHAPE, dtype="uint16")
        with image.writer() as writer:
            writer.write_region(target.pixels, offset=(0, 0, 0))
        if not np.array_equal(image[...], target.pixels):
            found.failures.append("wrong: what is written behind it all reads differently")
        client.delete("behind")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ziggurat-fuzz-") as directory:
        found = fuzz(
            Path(directory),
            seconds=chosen.minutes * 60,
            threads=chosen.threads,
            seed=chosen.seed,
            say=True,
        )
    kinds = Counter(failure.partition(":")[0] for failure in found.failures)
    for method, count in sorted(found.cases.items()):
        print(f"{method:14} {count}")
    for code, count in found.codes.most_common():
        print(f"{code:24} {count}")
    for failure in found.failures[:20]:
        print(failure)
    print(found.log)
    counted = {kind: kinds[kind] for kind in ("crash", "bug", "hang", "wrong", "growth")}
    print(
        json.dumps(
            {
                "cases": found.total,
                "seconds": round(found.seconds, 1),
                "methods": dict(found.cases),
                "codes": dict(found.codes),
                **counted,
                "memory_growth_bytes": found.memory_growth_bytes,
                "file_growth": found.file_growth,
            }
        )
    )
    sys.exit(1 if found.failures else 0)


if __name__ == "__main__":
    main()
