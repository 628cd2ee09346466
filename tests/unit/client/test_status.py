"""Does the client know all that a server says of itself?"""

from __future__ import annotations

import dataclasses
import typing

import pytest
import ziggurat
from google.protobuf.descriptor import Descriptor
from rich.console import Console
from ziggurat._answers import server_status
from ziggurat._show import status_table
from ziggurat_proto.v1 import service_pb2


def filled(message, number: int = 1000) -> int:
    """Gives each field at any depth a value of its own."""
    for field in message.DESCRIPTOR.fields:
        number += 1
        if field.message_type is not None:
            inner = getattr(message, field.name)
            number = filled(inner.add() if field.is_repeated else inner, number)
        elif field.type == field.TYPE_STRING:
            setattr(message, field.name, f"text-{number}")
        else:
            setattr(message, field.name, True if field.type == field.TYPE_BOOL else number)
    return number


def check(message, value) -> None:
    assert {f.name for f in dataclasses.fields(value)} == {
        f.name for f in message.DESCRIPTOR.fields
    }
    for field in message.DESCRIPTOR.fields:
        said, known = getattr(message, field.name), getattr(value, field.name)
        if field.message_type is None:
            assert known == said, field.full_name
        elif field.is_repeated:
            check(said[0], known[0])
        else:
            check(said, known)


@pytest.fixture
def status() -> service_pb2.ServerStatus:
    message = service_pb2.ServerStatus()
    filled(message)
    return message


def test_every_field_is_known(status: service_pb2.ServerStatus) -> None:
    check(status, server_status(status))


def test_each_part_has_a_public_name() -> None:
    def names(descriptor: Descriptor) -> typing.Iterator[str]:
        yield descriptor.name
        for field in descriptor.fields:
            if field.message_type is not None:
                yield from names(field.message_type)

    assert set(names(service_pb2.ServerStatus.DESCRIPTOR)) <= set(ziggurat.__all__)


def test_all_of_it_is_shown(status: service_pb2.ServerStatus) -> None:
    console = Console(width=200)
    with console.capture() as shown:
        console.print(status_table(server_status(status), "here"))
    for text in (
        "text-1001",
        "recovering",
        "log syncs",
        "traffic regions written",
        "disk of text-",
    ):
        assert text in shown.get()
