"""No message is lost, doubled or reordered between write() and the acknowledgement.

The state machine plays a writer, the calls it makes, and the server behind them; calls
end and processes die at any moment.
"""

import shutil
import tempfile

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from ziggurat import DataLoss
from ziggurat._spool import Spool
from ziggurat._window import Place, Window
from ziggurat_proto.v1 import write_pb2

LIMIT = 200
SPOOL_LIMIT = 3000


class Deliveries(RuleBasedStateMachine):
    """`server` is what the server has; its first `durable` messages survive its death."""

    def __init__(self):
        super().__init__()
        self.directory = tempfile.mkdtemp()
        self.spool = None
        self.server = []
        self.durable = 0
        self.contents = {}
        self.in_memory_only = set()

    @initialize(spooled=st.booleans())
    def begin(self, spooled):
        self.spooled = spooled
        self.start()

    def start(self):
        self.spool = Spool(self.directory, SPOOL_LIMIT, "a", "s") if self.spooled else None
        self.window = Window(LIMIT, self.spool)
        self.window.begin(len(self.server) + 1, self.durable)
        self.sent = len(self.server)
        self.number = len(self.server) + 1
        # Nobody can send again what no process has any more.
        self.unsendable = self.window.released

    @rule(size=st.sampled_from([1, 30, 60, 90, 250]))
    def put(self, size):
        number = self.window.last + 1
        message = (f"{number}:".encode() * size)[: max(size, 8)]
        place = self.window.place(len(message))
        if place is Place.MEMORY:
            self.window.hold(message)
        elif place is Place.SPOOL:
            assert self.spool.append(number, message, self.durable)
            self.window.spooled(len(message))
        else:
            assert self.window.backlog_bytes + len(message) > LIMIT
            return
        self.contents[number] = message

    @rule(count=st.integers(1, 5))
    def send(self, count):
        for _ in range(count):
            if not self.window.ready(self.number):
                return
            self.deliver(self.number)
            self.number += 1

    def deliver(self, number):
        message = self.window.find(number)
        if message is None:
            message = self.spool.read(number)
            self.window.load(number, message)
        self.sent = max(self.sent, number)
        assert number == len(self.server) + 1
        if number in self.window.lost:
            request = write_pb2.WriteRequest.FromString(message)
            assert (request.skip.sequence, request.skip.frames) == (number, 1)
            assert number in self.in_memory_only
            self.contents[number] = message
        assert message == self.contents[number]
        self.server.append(message)

    @rule(share=st.floats(0, 1))
    def becomes_durable(self, share):
        self.durable += int(share * (len(self.server) - self.durable) + 0.5)
        self.window.release(self.durable)

    @rule(dies=st.booleans())
    def call_is_lost(self, dies):
        if dies and self.durable >= self.unsendable:
            del self.server[self.durable :]
        self.number = len(self.server) + 1
        assert self.window.released < self.number <= self.sent + 1

    @rule()
    def progress_is_possible(self):
        """Whatever memory holds, the next message gets its turn once all is durable."""
        self.durable = len(self.server)
        self.window.release(self.durable)
        assert self.number > self.window.last or self.window.ready(self.number)

    @precondition(lambda self: self.spooled)
    @rule(killed=st.booleans())
    def process_ends(self, killed):
        if not killed:
            self.spool.save(self.window.in_memory(), self.durable)
        spooled = {n for n in self.contents if self.spool.message_size(n) is not None}
        self.in_memory_only = set(range(1, self.window.last + 1)) - spooled
        self.spool.close()
        before, lost = self.window.last, self.window.lost
        self.start()
        if not killed:
            assert self.window.lost <= lost
            assert self.window.last == before
        for number in range(self.window.last + 1, before + 1):
            assert number in self.in_memory_only
            del self.contents[number]

    @invariant()
    def bounds_and_counts(self):
        window = self.window
        held = set(range(window.released + 1, window.last + 1)) - window.lost
        assert window.backlog_bytes == sum(len(self.contents[n]) for n in held)
        memory = dict(window.in_memory())
        assert sum(map(len, memory.values())) <= LIMIT or len(memory) == 1
        if self.spool is not None:
            assert self.spool.size <= SPOOL_LIMIT + LIMIT + 300

    def teardown(self):
        if self.spool is not None:
            self.spool.close()
        shutil.rmtree(self.directory)


TestDeliveries = Deliveries.TestCase
TestDeliveries.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def spooled_by_another(directory, first, last, durable=0):
    found = Spool(str(directory), 10_000, "a", "s")
    for number in range(first, last + 1):
        assert found.append(number, b"x" * 50, durable)
    return found


@pytest.mark.parametrize(
    ("wanted", "durable", "released", "last", "lost"),
    [
        (11, 10, 10, 20, []),
        (8, 7, 7, 20, [8, 9, 10]),
        (15, 14, 14, 20, []),
        (15, 12, 12, 20, []),
        (15, 3, 10, 20, []),
        (21, 15, 15, 20, []),
        (23, 22, 22, 22, []),
    ],
    ids=["as it was left", "memory died", "some arrived", "not durable", "gap", "all", "more"],
)
def test_what_a_former_process_left(tmp_path, wanted, durable, released, last, lost):
    spool = spooled_by_another(tmp_path, 11, 20)
    window = Window(LIMIT, spool)
    window.begin(wanted, durable)
    assert (window.released, window.last, sorted(window.lost)) == (released, last, lost)
    assert window.backlog_bytes == (last - max(released, 10)) * 50 * (last == 20)
    spool.close()


def test_a_server_that_has_less_than_it_said(tmp_path):
    spool = spooled_by_another(tmp_path, 11, 20, durable=9)
    with pytest.raises(DataLoss, match="had all up to 9"):
        Window(LIMIT, spool).begin(9, 8)
    spool.close()


def test_time_to_full():
    window = Window(1000, None)
    assert window.seconds_to_full(0.0) is None
    for second in range(1, 6):
        window.hold(b"x" * 100)
        window.note(float(second))
    assert window.seconds_to_full(5.0) == pytest.approx(5.0)
    window.release(5)
    assert window.seconds_to_full(6.0) is None
    assert window.seconds_to_full(100.0) is None
