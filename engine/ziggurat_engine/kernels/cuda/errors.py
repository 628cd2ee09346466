"""What can go wrong on a card? Told apart by what is to be done."""

from __future__ import annotations


class DeviceError(Exception):
    """A card did not do what it was told to; never leaves this package.

    DeviceError
    +-- OutOfMemory      an allocation failed; what was there before is as it was
    +-- BadStatus        one batch went wrong on an otherwise sound card
    +-- DeviceLost       nothing works on this card any more in this process
        +-- DeviceHung   a call does not return, or work does not end
    """


class OutOfMemory(DeviceError):
    """An allocation failed."""


class BadStatus(DeviceError):
    """A kernel or library says that its result is not to be used."""


class DeviceLost(DeviceError):
    """The card, or this process's context on it, is gone."""


class DeviceHung(DeviceLost):
    """A call did not return in time. What it was about may be going on, in memory of its own."""
