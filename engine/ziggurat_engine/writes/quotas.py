"""How much may those who share a prefix of names use: bytes, streams, images, bytes a second?

A quota holds for the image that has its prefix as name and for all below it; an empty prefix
for all images. All quotas that an image matches hold at once, so that what a group may use
bounds the sum of what its members may. Adopted images lie elsewhere, and have no stored bytes.

Stored bytes are those of all files of images: chunks of all levels, metadata, frames. They are
counted once at the start and then at each change (store/usage.py). What is written is in memory
first, and its size on disk is not known: a write is let in while all that was written since
memory was last stored would fit uncompressed. Where it would not, memory is stored first, the
writer waits, and then what is on disk decides.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ziggurat_engine.config import Quota
from ziggurat_engine.errors import LimitExceeded
from ziggurat_engine.writes.pacing import Rate

# Who deletes images or ends streams does so by hand, or behind an acquisition.
RETRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class LimitUse:
    """How much of a limit is used; of bytes a second nobody counts that: 0."""

    name: str
    value: int
    used: int


class Account:
    """What is used of one quota. stored_bytes: on disk."""

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        self.stored_bytes = 0
        self.rate = Rate(quota.max_bytes_per_second) if quota.max_bytes_per_second else None
        # Pixels that may not be on disk yet.
        self.unsettled_bytes = 0
        self.counting = threading.Lock()
        # Held by the one writer that has memory stored, while others wait for what it finds.
        self.settling = threading.Lock()

    def holds(self, name: str) -> bool:
        """Whether the image `name` counts."""
        return _below(self.quota.prefix, name)

    def limit(self, name: str) -> str:
        """What errors and status call a limit of it."""
        return f'quotas["{self.quota.prefix}"].{name}' if self.quota.prefix else f"quotas.{name}"


class Quotas:
    """All quotas, and the limit on images of the whole server. May be used from any thread.

    count: how many images there are at or below a prefix.
    """

    def __init__(
        self, quotas: Sequence[Quota], max_images: int, count: Callable[[str], int]
    ) -> None:
        self.accounts = tuple(map(Account, quotas))
        self._max_images = max_images
        self._count = count
        self._lock = threading.Lock()
        self._creating: list[str] = []

    def of(self, name: str) -> list[Account]:
        """The quotas that hold for the image `name`."""
        return [account for account in self.accounts if account.holds(name)]

    @property
    def measured(self) -> bool:
        """Whether anybody asks how much is stored."""
        return any(account.quota.max_stored_bytes for account in self.accounts)

    def stored(self, name: str, nbytes: int) -> None:
        """Files of the image `name` have so many more bytes, or fewer."""
        for account in self.of(name):
            with account.counting:
                account.stored_bytes += nbytes

    def wrote(self, name: str, nbytes: int) -> None:
        """So many bytes of pixels of the image `name` are in memory that were not."""
        for account in self.of(name):
            with account.counting:
                account.unsettled_bytes += nbytes

    def check_stored(self, name: str, nbytes: int, settle: Callable[[Account], None]) -> None:
        """LimitExceeded where `nbytes` more of the image `name` can't be stored.

        settle: stores what memory has of all images that an account holds for; it is called
        where what is there might not fit, and may raise.
        """
        for account in self.of(name):
            limit = account.quota.max_stored_bytes
            if limit is None or self._fits(account, nbytes, limit):
                continue
            with account.settling:
                # Perhaps another has just done it.
                if self._fits(account, nbytes, limit):
                    continue
                before = account.unsettled_bytes
                settle(account)
                with account.counting:
                    account.unsettled_bytes -= before
            if account.stored_bytes + nbytes > limit:
                raise LimitExceeded(
                    f"{account.stored_bytes} bytes are stored of"
                    f" {account.limit('max_stored_bytes')} = {limit:d}; {nbytes} more are too many",
                    limit=account.limit("max_stored_bytes"),
                    value=limit,
                    asked=account.stored_bytes + nbytes,
                    retry_seconds=RETRY_SECONDS,
                )

    def _fits(self, account: Account, nbytes: int, limit: int) -> bool:
        with account.counting:
            return account.stored_bytes + account.unsettled_bytes + nbytes <= limit

    def check_streams(self, name: str, held: Sequence[str]) -> None:
        """LimitExceeded where one more stream may not be open; held: images of those that are."""
        for account in self.of(name):
            limit = account.quota.max_streams
            count = sum(map(account.holds, held)) if limit else 0
            if limit is not None and count >= limit:
                raise LimitExceeded(
                    f"{account.limit('max_streams')} = {limit} are open",
                    limit=account.limit("max_streams"),
                    value=limit,
                    asked=count + 1,
                    retry_seconds=RETRY_SECONDS,
                )

    def uses(self, held: Sequence[str]) -> Iterator[LimitUse]:
        """All limits of quotas; held: images of streams that are open, one each."""
        for account in self.accounts:
            quota = account.quota
            used = {
                "max_stored_bytes": account.stored_bytes,
                "max_streams": sum(map(account.holds, held)),
                "max_bytes_per_second": 0,
                "max_images": self._count(quota.prefix),
            }
            for name, number in used.items():
                value = getattr(quota, name)
                if value is not None:
                    yield LimitUse(account.limit(name), value, number)

    def pace(self, name: str, flow: str, nbytes: int, ended: Callable[[], bool]) -> None:
        """Returns when a message of so many bytes may be taken; Cancelled where `ended()`."""
        for account in self.of(name):
            if account.rate is not None:
                account.rate.take(flow, nbytes, ended)

    @contextmanager
    def one_more_image(self, name: str) -> Iterator[None]:
        """Lets the block make the image `name`; LimitExceeded where there are too many."""
        limits = [("max_images", "", self._max_images)]
        limits += [
            (account.limit("max_images"), account.quota.prefix, account.quota.max_images)
            for account in self.of(name)
            if account.quota.max_images is not None
        ]
        with self._lock:
            for limit, prefix, value in limits:
                count = self._count(prefix) + sum(_below(prefix, n) for n in self._creating)
                if count >= value:
                    raise LimitExceeded(
                        f"there are {count} images, and {limit} is {value}",
                        field="name",
                        limit=limit,
                        value=value,
                        asked=count + 1,
                    )
            self._creating.append(name)
        try:
            yield
        finally:
            with self._lock:
                self._creating.remove(name)


def _below(prefix: str, name: str) -> bool:
    """Whether `name` is `prefix` or lies below it, by whole segments."""
    return not prefix or name == prefix or name.startswith(prefix + "/")
