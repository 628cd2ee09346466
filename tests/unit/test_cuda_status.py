"""Do status and metrics tell which cards work, what they did and what went wrong?"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from ziggurat._answers import server_status
from ziggurat._show import status_table
from ziggurat_engine.config import Settings
from ziggurat_engine.engine import Engine
from ziggurat_engine.server.calls import Calls
from ziggurat_engine.server.convert import status_message
from ziggurat_engine.server.metrics import METRICS, gather

from tests.contract.kernel_cases import noise, recipe
from tests.support import shim
from tests.support.card import Card, Faults, kernels_on

pytestmark = pytest.mark.skipif(not shim.available(), reason="needs g++")


def test_cards_are_in_log_and_status(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cards = [Card(name="Sound Card"), Card(name="Old Card", faults=Faults(out_of_memory_at=1))]
    kernels = kernels_on(*cards, retry_seconds=1e9)
    with caplog.at_level(logging.INFO):
        engine = Engine(Settings(data=tmp_path), kernels=kernels)
    assert "kernels: cuda, Sound Card, Old Card;" in caplog.text
    # What the engine warms does not count on the card that is paused.
    chunk = noise((8, 16, 16), np.dtype("u2"))
    list(kernels.settle([chunk], [chunk.shape], recipe(chunk.dtype, (2, 2, 2))))
    status = server_status(status_message(engine.status(), "1"))
    facts = gather(engine, Calls())
    engine.close()
    measured = {
        (metric.name, *labels): value
        for metric in METRICS
        if metric.name.startswith(("ziggurat_card_", "ziggurat_kernel_cpu_"))
        for labels, value in metric.values(facts)
    }
    assert measured["ziggurat_card_ready", "0", "Sound Card"] == 1
    assert measured["ziggurat_card_ready", "1", "Old Card"] == 0
    assert measured["ziggurat_card_failures", "1", "Old Card"] == 1
    assert measured["ziggurat_card_batches", "0", "Sound Card"] > 0
    assert measured["ziggurat_card_memory_bytes", "0", "Sound Card"] > 2**20
    assert measured["ziggurat_kernel_cpu_batches",] == 0
    assert status.kernels == "cuda"
    sound, old = status.devices
    assert (sound.name, sound.state, sound.failures) == ("Sound Card", "ready", 0)
    assert sound.batches > 0
    assert sound.memory_bytes > 2**20
    assert (old.name, old.state, old.failures, old.batches) == ("Old Card", "paused", 1, 0)
    assert old.last_failure == "OutOfMemory: the test says so"
    console = Console(width=120)
    with console.capture() as capture:
        console.print(status_table(status, "here"))
    lines = [line.split() for line in capture.get().splitlines()]
    assert ["card", "0", "name", "Sound", "Card"] in lines
    assert ["card", "1", "state", "paused"] in lines
    assert ["kernel", "cpu", "batches", "0"] in lines
