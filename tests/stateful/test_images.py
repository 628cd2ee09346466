"""Do images stay right through any life: made, written, closed, restarted, deleted?

A state machine drives a real server. Beside the steps of test_regions.py it has several
images at a time, deletion and re-creation under the same name, forced builds, and
restarts of the server process in between.
"""

from __future__ import annotations

import itertools
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ziggurat
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from ziggurat_engine.region import Region

from tests.support.images import assert_level, assert_stored, factors_of
from tests.support.pixels import marked
from tests.support.server import ServerProcess
from tests.support.session import Session
from tests.support.strategies import METHODS, fill_like, image_specs, level_shape, regions

NAMES = ["lab/a", "lab/b"]
SOME = settings(
    max_examples=12,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
SETTINGS = {"cache_bytes": "128KiB", "settle_idle_seconds": 0.05, "drain_seconds": 2}


class Shared:
    """One server for all runs of the machine: starting one takes longer than most runs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.runs = itertools.count()
        # What failed first: Hypothesis forgets it where it does not fail so again.
        self.failed = ""
        self.start()

    def start(self) -> None:
        self.server = ServerProcess(self.directory / "data", self.directory / "stderr", **SETTINGS)
        self.client = ziggurat.connect(self.server.address)

    @contextmanager
    def noting(self, error: BaseException | None) -> Iterator[None]:
        """Notes `error`, or else what the block raises."""
        try:
            if error is not None:
                self._note(error)
            yield
        except Exception as found:
            self._note(found)
            raise

    def _note(self, error: BaseException) -> None:
        if not type(error).__module__.startswith("hypothesis"):
            self.failed = self.failed or "".join(traceback.format_exception(error))

    def stop(self) -> None:
        self.client.close()
        self.server.stop()
        assert not list((self.directory / "data" / "tmp").iterdir())


class Images(RuleBasedStateMachine):
    """Two names, each with an image or without."""

    shared: Shared

    def __init__(self) -> None:
        super().__init__()
        self.prefix = f"run-{next(self.shared.runs)}"
        self.sessions: dict[str, Session] = {}
        self.specs: dict[str, dict] = {}
        self.seeds = itertools.count(1)
        self.restarts = 0

    @property
    def client(self) -> ziggurat.Client:
        return self.shared.client

    def teardown(self) -> None:
        try:
            with self.shared.noting(sys.exception()):
                for session in self.sessions.values():
                    session.finish()
                    assert_stored(self.shared.server, session.image, session.model)
        finally:
            for session in self.sessions.values():
                session.discard()

    @initialize(spec=image_specs())
    def first(self, spec: dict) -> None:
        self.create(NAMES[0], spec)

    @rule(name=st.sampled_from(NAMES), spec=image_specs())
    def create(self, name: str, spec: dict) -> None:
        if name in self.sessions:
            try:
                self.client.create(f"{self.prefix}/{name}", **spec)
            except ziggurat.AlreadyExists as error:
                assert error.field == "spec.name"  # noqa: PT017 - one of two right outcomes
            else:
                raise AssertionError(f"{name} was made twice")
        else:
            self.sessions[name] = Session(self.client, f"{self.prefix}/{name}", **spec)
            self.specs[name] = spec

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), stream=st.integers(0, 1), blank=st.integers(0, 5))
    def write(self, data: st.DataObject, stream: int, blank: int) -> None:
        name = self._any(data)
        session, spec = self.sessions[name], self.specs[name]
        for _ in range(data.draw(st.integers(1, 4))):
            box = data.draw(regions(session.image.shape))
            pixels = marked(box.shape, spec["dtype"], box.offset, next(self.seeds))
            session.write(stream, box.offset, pixels if blank else fill_like(box.shape, spec))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        session = self.sessions[self._any(data)]
        factors = factors_of(session.image)
        level = data.draw(st.integers(0, len(factors)))
        shape = level_shape(session.image.shape, factors[:level])
        session.read(level, data.draw(regions(shape)))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), stream=st.integers(0, 1))
    def flush(self, data: st.DataObject, stream: int) -> None:
        self.sessions[self._any(data)].flush(stream)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), stream=st.integers(0, 1))
    def close(self, data: st.DataObject, stream: int) -> None:
        self.sessions[self._any(data)].close(stream)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), stream=st.integers(0, 1))
    def abandon(self, data: st.DataObject, stream: int) -> None:
        self.sessions[self._any(data)].abandon(stream)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), force=st.booleans())
    def build(self, data: st.DataObject, force: bool) -> None:
        session = self.sessions[self._any(data)]
        session.wait_received()
        session.image.build_pyramid(force=force).wait()
        for level in range(len(session.image.levels)):
            box = level_shape(session.image.shape, factors_of(session.image)[:level])
            assert session.read(level, Region.whole(box)), "stale after a build"

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), method=st.sampled_from(METHODS))
    def change(self, data: st.DataObject, method: str) -> None:
        session = self.sessions[self._any(data)]
        session.wait_received()
        try:
            session.image.build_pyramid(method=method).wait()
        except ziggurat.InvalidArgument as error:
            # The fill value of a float, perhaps.
            assert error.field == "method"  # noqa: PT017 - one of two right outcomes
            return
        assert session.image.refresh().downsampling == method
        for level in range(len(session.image.levels)):
            box = level_shape(session.image.shape, factors_of(session.image)[:level])
            assert session.read(level, Region.whole(box)), "stale after a change"

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        name = self._any(data)
        session = self.sessions.pop(name)
        session.discard()
        assert not self.shared.server.image_path(session.image.name).exists()

    @precondition(lambda self: self.restarts < 1)
    @rule()
    def restart(self) -> None:
        self.restarts += 1
        for session in self.sessions.values():
            session.wait_received()
        self.shared.stop()
        for session in self.sessions.values():
            assert_stored(self.shared.server, session.image, session.model)
        self.shared.start()
        for session in self.sessions.values():
            session.reconnect(self.client)

    @invariant()
    def names_are_listed(self) -> None:
        listed = [image.name for image in self.client.list(self.prefix)]
        assert listed == [f"{self.prefix}/{name}" for name in sorted(self.sessions)]

    @invariant()
    def level_0_is_right(self) -> None:
        for session in self.sessions.values():
            session.wait_received()
            assert_level(session.image, 0, session.model)

    def _any(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.sessions)))


@pytest.mark.slow
def test_images(tmp_path: Path) -> None:
    Images.shared = Shared(tmp_path)
    try:
        run_state_machine_as_test(Images, settings=SOME)
        Images.shared.stop()
    except Exception as error:
        error.add_note(Images.shared.failed)
        raise
    finally:
        if Images.shared.server.running:
            Images.shared.server.kill()
