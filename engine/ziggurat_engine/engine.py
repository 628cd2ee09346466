"""How do the parts make an engine? The only wiring.

    wire -> ingest -> cache (dirty) -> settle -> kernels, store -> parents into the cache
    query -> cache -> store, kernels

Engine is what a server (or a test) talks to: domain values in, domain values out, no
gRPC. All methods may be called from any thread.
"""

from __future__ import annotations

import logging
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ziggurat_engine import scatter
from ziggurat_engine.build import Builder
from ziggurat_engine.cache import Budget, CleanChunks, Deferred, DirtyDirectory, coverage
from ziggurat_engine.chunks import Chunks
from ziggurat_engine.config import Settings
from ziggurat_engine.errors import FailedPrecondition, NotFound, Unavailable, ZigguratError
from ziggurat_engine.images import Images, OpenImage
from ziggurat_engine.kernels.protocol import DeviceTotals, Kernels, KernelTotals
from ziggurat_engine.kernels.select import select
from ziggurat_engine.labels import fitted
from ziggurat_engine.layout import resolve
from ziggurat_engine.log import Log, LogStats
from ziggurat_engine.measures import Counted, Measures, Used
from ziggurat_engine.names import check_name
from ziggurat_engine.reads.adding import Adding
from ziggurat_engine.reads.ahead import Ahead
from ziggurat_engine.reads.assembly import Assembly
from ziggurat_engine.reads.query import Query
from ziggurat_engine.reads.readahead import ReadAhead
from ziggurat_engine.reads.readlimits import ReadLimits
from ziggurat_engine.reads.staleness import Staleness
from ziggurat_engine.reads.turns import Turns
from ziggurat_engine.recover import Recovered, Recovery
from ziggurat_engine.remake import Remaker
from ziggurat_engine.settling.settle import Settler
from ziggurat_engine.settling.storing import SettleCounters, Storing
from ziggurat_engine.space import Disk, Space
from ziggurat_engine.spec import ImageSpec
from ziggurat_engine.state import State
from ziggurat_engine.store.adopted import check_there
from ziggurat_engine.store.catalog import Catalog
from ziggurat_engine.store.format import claim
from ziggurat_engine.store.frames import Row
from ziggurat_engine.vfs import FileLock, FileSystem, OsFileSystem
from ziggurat_engine.writes.durability import Durability
from ziggurat_engine.writes.frames import Frames
from ziggurat_engine.writes.ingest import Ingest
from ziggurat_engine.writes.journal import Journal
from ziggurat_engine.writes.quotas import LimitUse, Quotas
from ziggurat_engine.writes.streamtable import StreamTable

log = logging.getLogger(__name__)

# How long the threads of calls that have ended may take to notice.
LINGER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Status:
    """The engine's state, for GetStatus and metrics; bytes and counts since the start.

    unsettled_chunks: dirty, settling, or touched. deferred_chunks: blocks that are made later.
    disks: those that could be asked. used: what clients wrote and read.
    """

    uptime_seconds: float
    draining: bool
    kernels: str
    images: int
    open_streams: int
    budget_bytes: int
    clean_bytes: int
    dirty_bytes: int
    hits: int
    misses: int
    evictions: int
    read_ahead: int
    read_ahead_used: int
    read_requests: int
    read_bytes: int
    shards_waiting: int
    shards_failing: int
    unsettled_chunks: int
    deferred_chunks: int
    disks: list[Disk]
    used: Used
    settle: SettleCounters
    log: LogStats
    log_sync_seconds: Counted
    log_error: str
    recovering: bool
    replayed_bytes: int
    kernel_totals: KernelTotals
    devices: Sequence[DeviceTotals]
    limits: tuple[LimitUse, ...]


class Engine:
    """Images, write streams, reads and builds over one data directory.

    streams, ingest, query, builder: the ways in; `close` stores everything and ends all threads.
    measures: what is counted, beside `status`.
    staleness: where levels are behind. durability: how far streams are durable.
    Raises OSError where a directory can't be used, BlockingIOError where another server
    uses it; DataError where what lies in it can't be.
    """

    def __init__(
        self,
        settings: Settings,
        fs: FileSystem | None = None,
        open_state: Callable[[], State] | None = None,
        kernels: Kernels | None = None,
    ) -> None:
        self._settings = settings
        self._started = time.monotonic()
        self._draining = False
        self.measures = measures = Measures(settings.metrics_prefixes)
        fs = fs or OsFileSystem()
        with ExitStack() as undo:
            # First, so that a second server changes nothing.
            self._lock = _lock(fs, settings.data)
            undo.callback(self._lock.close)
            claim(fs, settings.data)
            database = settings.data / "state.sqlite"
            self._state = open_state() if open_state else State.open(database)
            undo.callback(self._state.close)
            self._log = Log.open(
                fs,
                settings.log or settings.data / "log",
                segment_bytes=settings.log_segment_bytes,
                after=max(self._state.applied().values(), default=0),
            )
            undo.callback(self._log.close)
            self._quotas = Quotas(
                settings.quotas,
                settings.max_images,
                lambda prefix: self._catalog.count(prefix),  # noqa: PLW0108 - it comes later
            )
            self._catalog = Catalog.open(
                fs,
                settings.data,
                max_open_shards=settings.max_open_shards,
                stages=self.measures.stages,
                metered=self._quotas.stored if self._quotas.measured else None,
            )
            self._kernels = kernels or select(
                settings.kernels,
                settings.kernel_threads,
                device_memory_bytes=settings.device_memory_bytes,
                device_batch_bytes=settings.device_batch_bytes,
                device_timeout_seconds=settings.device_timeout_seconds,
            )
            epoch = self._state.begin_epoch(time.time_ns())
            undo.pop_all()
        self._budget = Budget(settings.cache_bytes)
        self._clean = CleanChunks(self._budget)
        # Ticks are revisions too, and those never fall.
        self._dirty = DirtyDirectory(epoch)
        self._deferred = Deferred()
        self._images = Images(self._catalog, self._dirty.next_tick)
        chunks = Chunks(self._clean, self._dirty, self._kernels, measures)
        self._storing = Storing(
            chunks, self._clean, self._deferred, self._kernels, self._state, measures
        )
        self._settler = Settler(
            self._images,
            self._clean,
            self._dirty,
            self._deferred,
            self._budget,
            self._storing,
            measures,
            workers=settings.settle_workers,
            idle_seconds=settings.settle_idle_seconds,
            busy_seconds=settings.settle_busy_seconds,
        )
        self._frames = Frames()
        self._journal = Journal(self._log, self._state, self._dirty, self._frames, measures)
        self._settler.observers.append(self._journal.release)
        self._settler.schedule.hurry = lambda: (
            self._journal.bytes > settings.max_log_bytes or self._log.state == "full"
        )
        disks = (settings.data, settings.log or settings.data)
        self._space = Space(fs, disks, settings.reserve_bytes)
        self.durability = Durability(self._dirty, self._journal, measures)
        self.streams = StreamTable(
            self.durability,
            self._journal,
            self._quotas,
            measures,
            max_streams=settings.max_streams,
            lease_seconds=settings.stream_lease_seconds,
        )
        self.ingest = Ingest(
            self.streams,
            self.durability,
            self._dirty,
            self._budget,
            self._settler,
            self._journal,
            self._frames,
            self._space,
            self._quotas,
            self._images,
            measures,
            max_metadata_bytes=settings.max_metadata_bytes,
            max_inflight_bytes=settings.max_inflight_bytes,
        )
        self.staleness = Staleness(self._dirty, self._deferred)
        self._readers = Turns(settings.read_threads, "read")
        self._ahead = Ahead(self._readers, 2 * settings.read_threads, settings.read_ahead_bytes)
        limits = ReadLimits.of(settings)
        assembly = Assembly(chunks, self._kernels, self._ahead, limits.part_bytes)
        self.query = Query(
            assembly,
            Adding(assembly, self._budget, self._ahead, limits, most=settings.read_threads),
            self._ahead,
            ReadAhead(chunks, self._budget, self._readers, settings.scan_ahead_bytes),
            self.staleness,
            limits,
        )
        self._remaker = remaker = Remaker(self._catalog, self._images, self._settler, self._state)
        self.builder = Builder(self._settler, remaker)
        self._recovery = Recovery(
            self._log,
            self._state,
            self._journal,
            self._images,
            self.streams,
            self.ingest,
            self._settler,
            self._frames,
            remaker,
            accept_loss=settings.accept_loss,
        )
        self._ready = False
        # Beside the start: what cameras send most.
        threading.Thread(target=self._warm, name="warm", daemon=True).start()
        log.info(
            "kernels: %s; cache: %d MiB; %d images in %s",
            ", ".join([self._kernels.name, *(card.name for card in self._kernels.devices)]),
            settings.cache_bytes >> 20,
            self._catalog.count(),
            settings.data,
        )

    def recover(self) -> Recovered:
        """Replays the log; to be called once, before all other methods but `status`.

        Returns when reads see all that was acknowledged. Until then the other methods
        raise Unavailable.
        """
        found = self._recovery.run()
        self._ready = True
        return found

    def _warm(self) -> None:
        scatter.warm()
        coverage.warm()
        self._kernels.warm([np.dtype(name) for name in ("uint16", "uint8")])

    def create(self, spec: ImageSpec) -> OpenImage:
        """Makes an image; its metadata is durable when it returns.

        Raises InvalidArgument, AlreadyExists, OSError; NotFound where its labels_of is none,
        FailedPrecondition where that is adopted; LimitExceeded where there are too many.
        """
        self._check_ready()
        settings = self._settings
        if spec.labels_of is not None:
            parent = self.image(spec.labels_of, "labels_of").image
            if parent.adopted is not None:
                # They would have to lie in a group that others wrote.
                raise FailedPrecondition(
                    f"labels_of: image {parent.name!r} is adopted, and can't hold labels"
                )
            spec = fitted(spec, parent)
        max_chunk_bytes = min(settings.max_chunk_bytes, settings.cache_bytes // 8)
        image = resolve(
            spec,
            chunk_target_bytes=min(settings.chunk_target_bytes, max_chunk_bytes),
            shard_target_bytes=settings.shard_target_bytes,
            max_chunk_bytes=max_chunk_bytes,
            working_set_bytes=settings.cache_bytes // 4,
        )
        if image.downsampling != "mean" and image.layout.factors:
            # Else its first chunk waits for the compiler.
            threading.Thread(
                target=self._kernels.warm,
                args=([image.dtype], image.downsampling),
                name="warm",
                daemon=True,
            ).start()
        with self._quotas.one_more_image(image.name):
            return self._images.create(image)

    def image(self, name: str, field: str = "name", *, there: bool = True) -> OpenImage:
        """The image called `name`, in any Unicode normal form; else NotFound for `field`.

        there: OSError, with the path, where it is adopted and not where it was.
        """
        self._check_ready()
        try:
            image = self._images.open(unicodedata.normalize("NFC", name))
        except NotFound as error:
            raise NotFound(error.message, field=field) from None
        if there:
            image.check_there()
        return image

    def find(self, name: str) -> OpenImage | None:
        """The image called `name`; None where there is none (any more), or it can't be used."""
        try:
            return self._images.open(name)
        except ZigguratError:
            return None

    def names(self, prefix: str = "") -> list[str]:
        """All images at or below the path `prefix`, sorted; InvalidArgument where it is none."""
        self._check_ready()
        return self._images.names(check_name(prefix.rstrip("/"), "prefix") if prefix else "")

    def delete(self, image: OpenImage) -> None:
        """Deletes an image and all its pixels.

        FailedPrecondition while a stream writes to it, or while it has labels.
        Gone durably when it returns; what is still read or built ends with NotFound.
        An adopted one is forgotten: all that was written to it is stored before, and its
        files stay. Raises Unavailable, OSError where it can't be stored; where it is not there
        what was written is dropped. Whatever is raised, the image is there as it was, with its
        streams, or gone.
        """
        self._catalog.check_no_labels(image.image.name)
        with image.base.deleting:
            self.streams.refuse(image)
            if image.image.adopted is not None:
                self._leave(image)
            try:
                # First: the log may still hold frames of an image that is not there any more.
                self._state.save_deleted(image.image.uid)
                self._images.delete(image)
            finally:
                if image.base.gone:
                    self._forget(image)
                else:
                    self._keep(image)
        # Only now: after an error the disk may yet bring the image back.
        self._state.forget(image.image.uid)

    def _forget(self, image: OpenImage) -> None:
        """Nothing is kept in memory of an image that is gone."""
        self.streams.forget(image)
        for number in image.base.numbers:
            self._settler.discard(image, number)
        self._journal.forget(image.image.uid)
        self._frames.forget(image.image.uid)

    def _keep(self, image: OpenImage) -> None:
        """It could not be deleted: it takes writes again."""
        try:
            # Before: a start that can't open the image would skip what the log has of it.
            self._state.not_deleted([image.image.uid])
        except OSError as error:
            log.error(
                "%s takes no writes until the next start, or until it is deleted: that it is"
                " still there can't be noted: %s",
                image.image.name,
                error,
            )
        else:
            image.base.deleted = False

    def _leave(self, image: OpenImage) -> None:
        """Stores what waits for an adopted image; what is not there any more takes nothing."""
        adopted = image.image.adopted
        assert adopted is not None
        try:
            check_there(adopted)
        except OSError as error:
            numbers = image.base.numbers
            nbytes = sum(self._settler.failures.dirty_bytes(image, number) for number in numbers)
            log.warning(
                "%s is forgotten, and %d bytes of pixels that wait for it are dropped%s: %s",
                image.image.name,
                nbytes,
                ", and what the log holds beyond them" * image.base.unmerged,
                error,
            )
            return
        try:
            image.check_there()
            self._settler.drain_all(image)
        except BaseException:
            image.base.deleted = False
            raise

    def frames(self, image: OpenImage) -> Iterator[Row]:
        """What is known of the image's frames; a stream's in the order of its numbers."""
        return self._frames.rows(image)

    def drain(self) -> None:
        """From now on no stream is opened, and those that are open end."""
        self._draining = True
        self.streams.drain()

    def close(self) -> None:
        """Stores all that is dirty, level by level, and ends all threads.

        No other call may be running or follow. Raises the first error that kept
        anything from being stored, having stored what could be.
        """
        self.drain()
        if not self.streams.wait_released(LINGER_SECONDS):
            log.warning("a write stream is still held; what it does now may not be stored")
        failed: ZigguratError | None = None
        with ExitStack() as ends:
            # Last comes first: whatever raises, all that is behind it is done as well.
            ends.callback(self._lock.close)
            ends.callback(self._state.close)
            ends.callback(lambda: self._close_journal(stored=stored))
            ends.callback(self._catalog.close)
            ends.callback(self._kernels.close)
            ends.callback(self._readers.close)
            ends.callback(self._settler.close)
            ends.callback(self._remaker.close)
            stored = False
            for image in self._images.opened():
                try:
                    # What is deferred is noted, and goes on at the next start.
                    self._settler.drain_all(image, deferred=False)
                except ZigguratError as error:
                    log.error("%s is not stored wholly: %s", image.image.name, error)
                    failed = failed or error
            remembered = False
            try:
                self.streams.remember_all()
                remembered = True
            except (OSError, ZigguratError) as error:
                log.error("how far streams are can't be remembered: %s", error)
            stored = failed is None and remembered and self._ready
        if failed is not None:
            raise failed

    def _close_journal(self, *, stored: bool) -> None:
        if self._journal.close(stored=stored):
            try:
                self._state.save_log(self._log.identity, needed=False)
            except OSError as error:
                log.warning("it can't be noted that nothing of the log is needed: %s", error)

    def _check_ready(self) -> None:
        if not self._ready:
            done = self._recovery.bytes_done >> 20
            raise Unavailable(f"the server is starting: {done} MiB of the log are replayed")

    def status(self) -> Status:
        """What the engine is at."""
        clean = self._clean.counters
        return Status(
            uptime_seconds=time.monotonic() - self._started,
            draining=self._draining,
            kernels=self._kernels.name,
            images=self._catalog.count(),
            open_streams=self.streams.open_streams,
            budget_bytes=self._budget.total_bytes,
            clean_bytes=self._clean.nbytes,
            dirty_bytes=self._budget.dirty_bytes,
            hits=clean.hits,
            misses=clean.misses,
            evictions=clean.evictions,
            read_ahead=clean.read_ahead,
            read_ahead_used=self._clean.read_ahead_used,
            read_requests=self._catalog.handles.traffic.requests,
            read_bytes=self._catalog.handles.traffic.nbytes,
            shards_waiting=self._settler.waiting,
            shards_failing=self._settler.failing,
            unsettled_chunks=sum(len(shard.indices()) for shard in self._dirty.shards()),
            deferred_chunks=self._deferred.chunks,
            disks=self._space.disks(),
            used=self.measures.usage.total(),
            settle=replace(self._storing.counters),
            log=self._log.stats(),
            log_sync_seconds=self._log.sync_seconds(),
            log_error=str(self._log.error or ""),
            recovering=not self._ready,
            replayed_bytes=self._recovery.bytes_done,
            kernel_totals=self._kernels.totals,
            devices=self._kernels.devices,
            limits=tuple(self._limits()),
        )

    def _limits(self) -> Iterator[LimitUse]:
        """The limits of which it can be said how much is used."""
        settings = self._settings
        yield LimitUse("max_images", settings.max_images, self._catalog.count())
        yield LimitUse("max_streams", settings.max_streams, self.streams.open_streams)
        used = self.ingest.in_flight.nbytes
        yield LimitUse("max_inflight_bytes", settings.max_inflight_bytes, used)
        yield from self._quotas.uses(self.streams.held_images())


def _lock(fs: FileSystem, directory: Path) -> FileLock:
    fs.make_dirs(directory)
    try:
        return fs.lock(directory / "lock")
    except BlockingIOError as error:
        raise BlockingIOError(
            error.errno, "another server uses this directory", str(directory)
        ) from None
