"""How does a server process start, serve and stop?

On SIGTERM or SIGINT it takes no new call, ends the write streams, lets other calls go on
for `drain_seconds`, stores everything that is dirty, and exits with 0; with 1 where
something could not be stored. A second signal ends the waiting for calls.
"""

from __future__ import annotations

import gc
import logging
import signal
import sys
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ziggurat_engine.config import Settings
from ziggurat_engine.engine import Engine
from ziggurat_engine.errors import ZigguratError
from ziggurat_engine.server import servicer, sharing
from ziggurat_engine.server.admission import FLOOD_CALLS, Watch, threads
from ziggurat_engine.server.calls import Calls
from ziggurat_engine.server.files import fitted
from ziggurat_engine.server.identify import first_token
from ziggurat_engine.server.interceptors import interceptors
from ziggurat_engine.server.memory import Prefault, Trimmer
from ziggurat_engine.server.metrics import gather
from ziggurat_engine.server.tls import check_exposure, listen
from ziggurat_engine.server.tracing import Tracing
from ziggurat_engine.server.write_call import Waits
from ziggurat_engine.vfs import FileSystem

if TYPE_CHECKING:
    from ziggurat_engine.server.exporter import Exporter

log = logging.getLogger(__name__)

# What a stream's client may send ahead of the message that is taken in.
WINDOW_BYTES = 4 * 2**20
# What the process may hold beside the cache's budget, before it looks for memory to give back.
BESIDE_BYTES = 192 * 2**20
# While it stops: how often it looks, and how often no call of the engine's may run before all
# others are ended. More than once, since a call that has just arrived is not counted yet.
LOOK_SECONDS = 0.1
QUIET_LOOKS = 5


class Server:
    """A gRPC server over an engine of its own; `address` is where it listens.

    admin_token: made because tokens are needed and there never was any; else None.
    """

    def __init__(self, settings: Settings, fs: FileSystem | None = None) -> None:
        check_exposure(settings)
        self._settings = settings = fitted(settings)
        self._engine = Engine(settings, fs)
        self.admin_token = first_token(settings)
        self._trimmer = Trimmer(settings.cache_bytes + BESIDE_BYTES)
        self._prefault = Prefault(min(settings.prefault_bytes, settings.cache_bytes // 2))
        self._calls = Calls()
        self._tracing = self._traced()
        self._watch = Watch(settings.first_message_seconds, settings.send_stall_seconds)
        answer_ms = round(settings.keepalive_timeout_seconds * 1000)
        self._server = grpc.server(
            ThreadPoolExecutor(threads(settings), thread_name_prefix="call"),
            options=[
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
                # A window that does not grow: what a client sends ahead is memory beside
                # the budget, and left alone it becomes many MiB a stream.
                ("grpc.http2.bdp_probe", 0),
                ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
                # Clients that wait for hours may ask whether the server is still there, every
                # second; left alone it would end the connection for less than 5 minutes.
                ("grpc.http2.min_ping_interval_without_data_ms", 500),
                ("grpc.keepalive_permit_without_calls", 1),
                # A client that vanishes without a word would hold its streams for hours.
                ("grpc.keepalive_time_ms", round(settings.keepalive_seconds * 1000)),
                ("grpc.keepalive_timeout_ms", answer_ms),
                # Pings that measure the line hold up those of the keepalive.
                ("grpc.http2.ping_timeout_ms", answer_ms),
                # A connection takes a file, and memory, before anything is known of who it is.
                ("grpc.max_allowed_incoming_connections", settings.max_connections),
                ("grpc.server_handshake_timeout_ms", round(settings.handshake_seconds * 1000)),
                ("grpc.max_connection_idle_ms", round(settings.connection_idle_seconds * 1000)),
            ],
            interceptors=interceptors(settings, self._calls, self._watch, self._tracing),
            maximum_concurrent_rpcs=threads(settings) + FLOOD_CALLS,
        )
        self._health = health.HealthServicer()
        self._tell_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        waits = Waits(settings.first_message_seconds, settings.stream_idle_seconds)
        shared = sharing.Limits.of(settings)
        self._server.add_generic_rpc_handlers((servicer.handler(self._engine, waits, shared),))
        if settings.reflection:
            names = (servicer.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, self._server)
        try:
            self.address = listen(self._server, settings)
        except (OSError, ZigguratError):
            self._engine.close()
            raise
        self._exporter = self._export()

    def start(self) -> None:
        """Takes calls from now on; replays the log, and is healthy once that is done.

        Raises ZigguratError or OSError where the log can't be replayed.
        """
        self._trimmer.start()
        self._watch.start()
        self._server.start()
        self._engine.recover()
        self._tell_health(health_pb2.HealthCheckResponse.SERVING)
        self._prefault.start()
        log.info("listening on %s", self.address)

    def _traced(self) -> Tracing | None:
        if not self._settings.trace_endpoint:
            return None
        try:
            return Tracing(self._settings)
        except ZigguratError:
            self._engine.close()
            raise

    def _export(self) -> Exporter | None:
        if not self._settings.metrics_listen:
            return None
        # Not imported by who does not want it.
        from ziggurat_engine.server.exporter import Exporter

        try:
            made = Exporter(
                self._settings.metrics_listen, lambda: gather(self._engine, self._calls)
            )
        except OSError:
            self._engine.close()
            raise
        log.info("metrics at %s", made.url)
        return made

    def _tell_health(self, status: int) -> None:
        for service in ("", servicer.SERVICE):
            self._health.set(service, status)

    def stop(self, hurry: Callable[[float], bool]) -> None:
        """Drains: returns when no call runs and everything is stored.

        hurry(seconds): waits so long for word that calls that still run are to be
        cancelled; True where it came. Raises ZigguratError where something could not
        be stored.
        """
        self._health.enter_graceful_shutdown()
        self._engine.drain()
        stopped = self._server.stop(self._settings.drain_seconds)
        quiet = 0
        while not stopped.is_set():
            # Who watches its health would hold it up to the end.
            quiet = quiet + 1 if self._calls.idle else 0
            if hurry(LOOK_SECONDS) or quiet > QUIET_LOOKS:
                self._server.stop(0)
        self._engine.close()
        if self._exporter is not None:
            self._exporter.close()
        if self._tracing is not None:
            self._tracing.close()
        self._watch.stop()
        self._prefault.stop()
        self._trimmer.stop()


def serve(
    settings: Settings, signals: Collection[signal.Signals], fs: FileSystem | None = None
) -> int:
    """Serves until one of `signals` says stop; returns the process's exit code.

    fs: where the engine's files are; None: the operating system's.

    All threads must have them blocked: they are waited for. (A handler would run only
    once the main thread wakes, which a signal taken by another thread does not do.)
    Prints one line, "listening on HOST:PORT", on standard output once calls are taken.
    """
    server = Server(settings, fs)
    if server.admin_token is not None:
        # Beside the log, which may go anywhere.
        print(f"admin token, shown only now: {server.admin_token}", file=sys.stderr, flush=True)  # noqa: T201
    try:
        server.start()
    except (ZigguratError, OSError) as error:
        # Nothing is changed: whoever mends the log finds it as it was.
        log.critical("can't recover: %s", error)
        return 1
    # What start-up made stays. Left alone, full collections look at all of it again: they hold the
    # interpreter's lock for 0.05 s, and an acknowledgement with it.
    gc.collect()
    gc.freeze()
    print(f"listening on {server.address}", flush=True)  # noqa: T201 - what callers wait for
    signal.sigwait(signals)
    log.info("stopping")
    try:
        server.stop(lambda seconds: signal.sigtimedwait(signals, seconds) is not None)
    except (ZigguratError, OSError) as error:
        log.error("not everything is stored: %s", error)
        return 1
    log.info("stopped")
    return 0
