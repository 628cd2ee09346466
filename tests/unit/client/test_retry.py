"""How often, how soon and how long a writer tries again."""

import pytest
import ziggurat
from ziggurat._retry import MAX_DELAY_SECONDS, Retry

GONE = ziggurat.Unavailable("gone")
HELD = ziggurat.StreamHeld("held")


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def retry(clock):
    return Retry(300.0, 30.0, clock=clock, jitter=lambda: 1.0)


def test_delays_grow_and_begin_anew_with_progress(retry):
    retry.opened()
    delays = [retry.decide(GONE) for _ in range(9)]
    assert delays == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert max(delays) == MAX_DELAY_SECONDS
    retry.opened()
    assert retry.decide(GONE) == 5.0
    retry.opened()
    retry.progressed()
    assert retry.decide(GONE) == 0.05


def test_a_token_that_expired_is_renewed_once(clock):
    expired = ziggurat.Unauthenticated("over", details={"expired": "true"})
    for renews in (False, True):
        retry = Retry(300, 30, clock=clock, renews=renews)
        assert retry.decide(expired) is expired
        retry.opened()
        decision = retry.decide(expired)
        assert isinstance(decision, float) if renews else decision is expired
        # The new one does not count either.
        assert retry.decide(expired) is expired
        retry.opened()
        revoked = ziggurat.Unauthenticated("revoked")
        assert retry.decide(revoked) is revoked


def test_jitter_never_makes_it_longer(clock):
    retry = Retry(300.0, 30.0, clock=clock, jitter=lambda: 0.0)
    assert retry.decide(GONE) == 0.025


def test_the_first_open_has_its_own_budget(retry, clock):
    assert isinstance(retry.decide(GONE), float)
    clock.now += 4.98
    assert retry.decide(HELD) == pytest.approx(0.02)
    clock.now += 0.02
    assert retry.decide(HELD) is HELD
    clock.now += 24.9
    assert isinstance(retry.decide(GONE), float)
    clock.now += 0.2
    assert retry.decide(GONE) is GONE


def test_only_time_without_a_call_counts(retry, clock):
    retry.opened()
    for _ in range(3):
        clock.now += 10_000
        assert isinstance(retry.decide(GONE), float)
        clock.now += 90
        retry.opened()
    clock.now += 10_000
    assert isinstance(retry.decide(GONE), float)
    clock.now += 31
    given_up = retry.decide(HELD)
    assert isinstance(given_up, ziggurat.Unavailable)
    assert given_up.__cause__ is HELD
    assert given_up.at(7).__cause__ is HELD
    retry.opened()
    retry.progressed()
    assert isinstance(retry.decide(GONE), float)


def full(reason="LIMIT_EXCEEDED", retry_seconds=None):
    return ziggurat.LimitExceeded("full", reason=reason, retry_seconds=retry_seconds)


def test_what_the_server_asks_to_wait_is_waited(retry, clock):
    retry.opened()
    assert retry.decide(full(retry_seconds=7.5)) == 7.5
    assert retry.decide(full(retry_seconds=0.01)) == 0.1
    clock.now += 298
    assert retry.decide(full(retry_seconds=7.5)) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("error", "first", "reopening", "open_call"),
    [
        (GONE, True, True, True),
        (HELD, True, True, True),
        (ziggurat.DeadlineExceeded("late"), True, True, True),
        (ziggurat.Cancelled("reset"), True, True, True),
        (full("DISK_FULL"), True, True, True),
        (full(), False, True, False),
        (full(retry_seconds=1.0), True, True, True),
        (ziggurat.ServerError("cut", reason="TRANSPORT"), False, True, True),
        (ziggurat.ServerError("cut", reason="STREAM_ENDED"), False, True, True),
        (ziggurat.ServerError("bug", reason="BUG"), False, False, False),
        (ziggurat.InvalidArgument("no"), False, False, False),
        (ziggurat.NotFound("no"), False, False, False),
        (ziggurat.FailedPrecondition("no"), False, False, False),
        (ziggurat.DataLoss("no"), False, False, False),
        (ziggurat.Unauthenticated("no"), False, False, False),
        (ziggurat.PermissionDenied("no"), False, False, False),
        # Certificates are renewed; one that was never good is not waited for.
        (ziggurat.Unavailable("no", reason="TLS_FAILED"), False, True, True),
    ],
    ids=lambda value: getattr(value, "reason", value),
)
def test_what_is_worth_another_try(clock, error, first, reopening, open_call):
    """At the first open; when it is refused later; when it ends an open call."""

    def tried(retry):
        decision = retry.decide(error)
        assert isinstance(decision, float) or decision is error
        return isinstance(decision, float)

    assert tried(Retry(300, 30, clock=clock)) is first
    retry = Retry(300, 30, clock=clock)
    retry.opened()
    assert tried(retry) is open_call
    assert tried(retry) is reopening
