"""Does anything that was acknowledged get lost when the server is killed, again and again?

    python -m benchmarks.torture --kills 100

A real server under load from four client processes is killed with SIGKILL at random
moments and started again on the same directory. After each start every plane is read
and held against what its client had been told: no tile may be older than the last
durable write to its plane, and none may hold anything that was never written there. At
the end all is closed, and level 0 and every level above are compared byte for byte.

Prints what was acknowledged, lost, doubled and wrong, and how long recovery took; exits
with 1 on any loss. One JSON object on the last line.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import ziggurat
from ziggurat_engine.kernels.reference import mean
from ziggurat_engine.spec import Array

from benchmarks._machine import facts
from benchmarks._torture_client import PLANES, SIDE, TILE, numbers, plane

CLIENTS = 4
START_SECONDS = 60.0


@dataclass
class Findings:
    """What the torture has found; all but `acknowledged` must be 0."""

    kills: int = 0
    acknowledged: int = 0
    lost: int = 0
    doubled: int = 0
    foreign: int = 0
    wrong_levels: int = 0
    failed_clients: int = 0
    recovery_seconds: list[float] = field(default_factory=list)


class Victim:
    """The server: started on a fixed port, killed without a warning."""

    def __init__(self, data: Path, port: int, stderr: Path) -> None:
        self._command = [sys.executable, "-m", "ziggurat_engine", "serve"]
        self._command += ["--data", str(data), "--listen", f"127.0.0.1:{port}"]
        # Small and hasty, so that kills fall into every kind of work.
        for name, value in {
            "cache_bytes": "64MiB",
            "log_segment_bytes": "8MiB",
            "max_message_bytes": "4MiB",
            "max_log_bytes": "48MiB",
            "settle_idle_seconds": 0.2,
        }.items():
            self._command.append(f"--set={name}={value}")
        self._stderr = stderr
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Starts it; returns the seconds until it served, its log replayed."""
        began = time.monotonic()
        with self._stderr.open("ab") as stderr:
            self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=stderr)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith(b"listening"):
            raise SystemExit(f"the server does not start:\n{self._stderr.read_text()[-4000:]}")
        return time.monotonic() - began

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self._ended()

    def stop(self) -> None:
        """SIGTERM; its exit code must be 0."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        if self._ended():
            raise SystemExit("the server did not store everything when it stopped")

    def _ended(self) -> int:
        assert self.process is not None
        assert self.process.stdout is not None
        code = self.process.wait(START_SECONDS)
        self.process.stdout.close()
        return code


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="a directory to work in; default a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.data) as work:
        found = torture(Path(work), arguments.kills, arguments.seed)
    seconds = sorted(found.recovery_seconds)
    p50, p99 = (seconds[min(len(seconds) - 1, int(len(seconds) * q))] for q in (0.5, 0.99))
    print(
        f"kills {found.kills}  acknowledged {found.acknowledged}  lost {found.lost}  doubled"
        f" {found.doubled}  foreign {found.foreign}  wrong levels {found.wrong_levels}"
        f"  failed clients {found.failed_clients}  recovery p50 {p50:.2f} s p99 {p99:.2f} s"
    )
    result = asdict(found) | {"recovery_p50_seconds": p50, "recovery_p99_seconds": p99}
    print(json.dumps({"machine": facts(), "torture": result}))
    bad = found.lost + found.doubled + found.foreign + found.wrong_levels + found.failed_clients
    raise SystemExit(1 if bad else 0)


def torture(work: Path, kills: int, seed: int) -> Findings:
    """Runs it all in the directory `work`."""
    found = Findings()
    dice = random.Random(seed)
    victim = Victim(work / "data", _free_port(), work / "server.log")
    address = victim._command[victim._command.index("--listen") + 1]
    victim.start()
    with ziggurat.connect(address) as connection:
        for client in range(CLIENTS):
            connection.create(
                f"torture/{client}",
                axes="zyx",
                shape=(PLANES, SIDE, SIDE),
                dtype="uint16",
                chunk_shape=(8, TILE, TILE),
                shard_chunks=(2, 2, 2),
                codec="blosc-lz4",
            )
    seconds = 2.0 + kills * 1.6
    processes = [_client(address, client, work, seconds) for client in range(CLIENTS)]
    told = [0] * CLIENTS
    try:
        deadline = time.monotonic() + START_SECONDS
        while not all(_told(work, client) for client in range(CLIENTS)):
            if time.monotonic() > deadline:
                raise SystemExit("the clients do not start")
            time.sleep(0.05)
        while found.kills < kills:
            time.sleep(dice.uniform(0.05, 1.0))
            # What was told before the kill is what the server is held to after it.
            told = [_told(work, client) for client in range(CLIENTS)]
            victim.kill()
            found.kills += 1
            found.recovery_seconds.append(victim.start())
            _check_planes(address, told, found)
            if any(process.poll() not in (None, 0) for process in processes):
                break
        for process in processes:
            found.failed_clients += process.wait(300) != 0
    except BaseException:
        victim.kill()
        raise
    finally:
        for process in processes:
            process.kill()
            process.wait(START_SECONDS)
    for client in range(CLIENTS):
        found.acknowledged += _told(work, client)
        found.doubled += _doubled(work, client)
    _check_levels(address, [_told(work, client) for client in range(CLIENTS)], found)
    victim.stop()
    return found


def _check_planes(address: str, told: list[int], found: Findings) -> None:
    """Every tile is of its own plane and client, and not older than what was durable."""
    with ziggurat.connect(address) as connection:
        for client, durable in enumerate(told):
            pixels = connection.open(f"torture/{client}")[...]
            for z in range(PLANES):
                last = durable - (durable - z) % PLANES
                seen = numbers(pixels[z])
                found.lost += int((seen < last).sum()) if last > 0 else 0
                for n in np.unique(seen[seen > 0]):
                    where = np.repeat(np.repeat(seen == n, TILE, axis=0), TILE, axis=1)
                    right = n % PLANES == z and (pixels[z] == plane(client, int(n)))[where].all()
                    found.foreign += not right


def _check_levels(address: str, last: list[int], found: Findings) -> None:
    """After all is closed: level 0 is what was written last, each level its exact mean.

    Or says that it is stale, and is exact where that is asked for.
    """
    with ziggurat.connect(address) as connection:
        for client, n in enumerate(last):
            image = connection.open(f"torture/{client}")
            expected: Array = np.zeros(image.shape, np.uint16)
            for number in range(max(1, n - PLANES + 1), n + 1):
                expected[number % PLANES] = plane(client, number)
            found.lost += int((image[...] != expected).any())
            for k, level in enumerate(image.levels[1:], 1):
                expected = mean(expected, expected.shape, level.factors)
                # Right after a start a level may be behind the log, if it says so.
                for exact in (False, True):
                    seen = image.fetch(level=k, exact=exact)
                    wrong = not np.array_equal(seen.array, expected)
                    found.wrong_levels += wrong and (exact or not seen.stale)


def _client(address: str, client: int, work: Path, seconds: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "benchmarks._torture_client", address, f"torture/{client}"]
    command += [f"camera-{client}", str(client), str(work / f"journal-{client}"), str(seconds)]
    return subprocess.Popen(command)


def _told(work: Path, client: int) -> int:
    """The highest number that the client had been told is durable."""
    journal = work / f"journal-{client}"
    lines = journal.read_text().splitlines() if journal.exists() else []
    return max((int(line.split()[1]) for line in lines if line.startswith("d ")), default=0)


def _doubled(work: Path, client: int) -> int:
    """How many more regions the server counted than the client wrote."""
    lines = (work / f"journal-{client}").read_text().splitlines()
    for line in lines:
        if line.startswith("c "):
            regions, _, written = map(int, line.split()[1:])
            return abs(regions - written)
    return 0


def _free_port() -> int:
    """A port that nobody is given unasked: it has to stay free from a kill to the next start."""
    given = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text()
    first = int(given.split()[0])
    while True:
        port = random.randrange(max(1024, first - 16000), max(2048, first))
        with closing(socket.socket()) as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


if __name__ == "__main__":
    main()
