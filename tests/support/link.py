"""How does a test put a network between a client and a server, spoil it and cut it?

    client ── Link ── server        the server listens on `host`, started `within`;
                                    clients connect to `address(server)`

Two make packets travel, through a network namespace that the server lives in, and need
root; one forwards bytes between sockets and runs anywhere. All are cut the way a cable
is: nothing gets through, and neither end is told.

What a link needs and this machine does not have is LinkUnavailable, with the reason.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import random
import select
import shutil
import struct
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

from tests.support.waiting import SECONDS


class LinkUnavailable(Exception):
    """This machine can't make such a link; the message says why."""


@dataclass(frozen=True)
class Fault:
    """How bad a line is, in each direction; `seed` where the drops are ours to draw.

    bits_per_second: 0 where nothing limits it.
    """

    delay_seconds: float
    loss: float
    seed: int = 0
    bits_per_second: int = 0


class Link(ABC):
    """A way from clients here to servers there; a context manager that leaves nothing."""

    host: str
    within: tuple[str, ...] = ()

    @abstractmethod
    def address(self, server: str) -> str:
        """Where clients find the server that listens at `server`."""

    @abstractmethod
    def cut(self) -> None:
        """From now on nothing gets through."""

    @abstractmethod
    def mend(self, *, forget: bool = False) -> None:
        """What is sent again gets through.

        forget: only on new connections. What is left of those from before never reaches
            the server any more, as if those clients had lost their power in the cut.
        """

    @property
    @abstractmethod
    def brought(self) -> int:
        """Bytes that came from servers so far."""

    @abstractmethod
    def calm(self) -> None:
        """No fault any more."""

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_numbers = itertools.count()


class NamespaceLink(Link):
    """A pair of interfaces, one here and one in a namespace without a name.

    A process holds the namespace and ends when its standard input does, with this one
    at the latest; the interfaces go with it. So nothing is left whatever happens.

    veth joins the interfaces, and netem is what spoils them; tbf, where only the rate matters.
    """

    def __init__(self, fault: Fault | None = None) -> None:
        if os.geteuid():
            raise LinkUnavailable("only root can make network namespaces")
        for tool in ("ip", "tc", "unshare", "nsenter"):
            if shutil.which(tool) is None:
                raise LinkUnavailable(f"there is no command {tool}")
        number = next(_numbers)
        # Names of interfaces have at most 15 bytes.
        self._near, self._far = f"zn{os.getpid()}-{number}", "far0"
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            assert self._holder.stdout is not None
            if not self._holder.stdout.readline():
                raise LinkUnavailable(self._holder.communicate(timeout=SECONDS)[1].decode())
            self.within = ("nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--")
            # Of the block for benchmarks, RFC 2544: 8 addresses for each link.
            block = (os.getpid() * 8 + number) % 2**14 * 8
            base = f"198.{18 + block // 2**16}.{block // 256 % 256}"
            self._hosts = itertools.cycle(f"{base}.{block % 256 + n}/29" for n in (2, 3, 4, 5))
            self.host = f"{base}.{block % 256 + 1}"
            self._here = next(self._hosts)
            self._join()
            _command("ip", "address", "add", self._here, "dev", self._near)
            self._there("ip", "address", "add", f"{self.host}/29", "dev", self._far)
            for run, name in ((_command, self._near), (self._there, self._far)):
                run("ip", "link", "set", name, "up")
            if fault is not None:
                self._spoil(fault)
        except BaseException:
            self.close()
            raise

    def address(self, server: str) -> str:
        return server

    def cut(self) -> None:
        # The other end keeps its address and its routes; it loses the carrier at most.
        self._there("ip", "link", "set", self._far, "down")

    def mend(self, *, forget: bool = False) -> None:
        if forget:
            # Sockets keep the address they began with, and the kernel sends no more from it.
            _command("ip", "address", "del", self._here, "dev", self._near)
            self._here = next(self._hosts)
            _command("ip", "address", "add", self._here, "dev", self._near)
        self._there("ip", "link", "set", self._far, "up")

    @property
    def brought(self) -> int:
        with open(f"/sys/class/net/{self._near}/statistics/rx_bytes") as file:
            return int(file.read())

    def calm(self) -> None:
        _command("tc", "qdisc", "del", "dev", self._near, "root")
        self._there("tc", "qdisc", "del", "dev", self._far, "root")

    def close(self) -> None:
        # The namespace ends, with all that is in it, once no server is in it either.
        if self._holder.poll() is None:
            self._holder.kill()
        self._holder.communicate(timeout=SECONDS)
        # It goes by itself; a moment later.
        subprocess.run(
            ["ip", "link", "del", self._near], check=False, capture_output=True, timeout=SECONDS
        )

    def _there(self, *command: str) -> None:
        _command(*self.within, *command)

    def _join(self) -> None:
        peer = ("peer", "name", self._far, "netns", str(self._holder.pid))
        _command("ip", "link", "add", self._near, "type", "veth", *peer)

    def _spoil(self, fault: Fault) -> None:
        if fault.delay_seconds or fault.loss:
            spoiler = ["netem", "limit", "10000", "delay", f"{fault.delay_seconds * 1000:g}ms"]
            spoiler += ["rate", f"{fault.bits_per_second}bit"] if fault.bits_per_second else []
            spoiler += ["loss", f"{fault.loss:%}"]
        else:
            # More kernels have it.
            rate = f"{fault.bits_per_second}bit"
            spoiler = ["tbf", "rate", rate, "burst", "64kb", "latency", "400ms"]
        for run, name in ((_command, self._near), (self._there, self._far)):
            # Else what is lost at once is a segment of 64 KiB.
            run("ip", "link", "set", name, "gso_max_segs", "1")
            run("tc", "qdisc", "add", "dev", name, "root", *spoiler)


_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


class RelayLink(NamespaceLink):
    """The same where the kernel has no netem: a thread here carries packet by packet.

    It delays each, and drops those that a seeded generator says; `dropped` so far.
    """

    def _join(self) -> None:
        self._fault, self._draw = Fault(0.0, 0.0), random.Random()
        self.dropped = 0
        self._stop = threading.Event()
        self._devices: list[int] = []
        self._thread = threading.Thread(target=self._relay, name="relay")
        try:
            for name in (self._near, f"{self._near}f"):
                device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                self._devices.append(device)
                asked = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI)
                fcntl.ioctl(device, _TUNSETIFF, asked)
        except OSError as error:
            raise LinkUnavailable(f"no interface from /dev/net/tun: {error}") from None
        _command(
            *("ip", "link", "set", f"{self._near}f"),
            *("netns", str(self._holder.pid), "name", self._far),
        )
        self._thread.start()

    def _spoil(self, fault: Fault) -> None:
        self._fault, self._draw = fault, random.Random(fault.seed)

    def calm(self) -> None:
        self._fault = Fault(0.0, 0.0)

    def close(self) -> None:
        if hasattr(self, "_stop"):
            self._stop.set()
            if self._thread.ident is not None:
                self._thread.join(SECONDS)
            for device in self._devices:
                os.close(device)
            self._devices = []
        super().close()

    def _relay(self) -> None:
        # (when it is due, a number that keeps the order, where to, the packet)
        waiting: list[tuple[float, int, int, bytes]] = []
        near, far = self._devices
        for number in itertools.count():
            if self._stop.is_set():
                return
            left = waiting[0][0] - time.monotonic() if waiting else 0.1
            ready, _, _ = select.select([near, far], [], [], min(max(left, 0.0), 0.1))
            for source in ready:
                packet = _quiet(os.read, source, 65536)
                if packet is None:
                    continue
                if self._draw.random() < self._fault.loss:
                    self.dropped += 1
                else:
                    due = time.monotonic() + self._fault.delay_seconds
                    target = far if source == near else near
                    heapq.heappush(waiting, (due, 2 * number + (source == near), target, packet))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, target, packet = heapq.heappop(waiting)
                _quiet(os.write, target, packet)


def _quiet(call, *args):
    """None where the interface is down: packets are lost then."""
    try:
        return call(*args)
    except OSError:
        return None


def _command(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, timeout=SECONDS)
    if done.returncode:
        raise LinkUnavailable(f"{' '.join(command)}: {done.stderr.decode().strip()}")
