"""Does every call want its scope, and keep to its caller's prefix?"""

from __future__ import annotations

import grpc
import pytest
import ziggurat
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from ziggurat_engine.security.caller import Scope
from ziggurat_engine.server.rights import RULES
from ziggurat_proto.v1 import image_pb2, read_pb2, service_pb2, write_pb2

from tests.security.calls import REQUESTS, SERVICE, Caller, Guarded
from tests.support.raw import Failure

Code = grpc.StatusCode
NEEDED = {
    method.name: RULES[f"/{SERVICE.full_name}/{method.name}"].scope for method in SERVICE.methods
}
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]


def test_no_rpc_is_without_a_scope() -> None:
    """Of our service, health and reflection; a scope less than to read only of health."""
    for service in (SERVICE, HEALTH, REFLECTION):
        declared = {
            path.rpartition("/")[2] for path in RULES if path.startswith(f"/{service.full_name}/")
        }
        assert declared == {method.name for method in service.methods}
    free = {path for path, rule in RULES.items() if rule.scope is Scope.NONE}
    assert all(path.startswith("/grpc.health.v1.Health/") for path in free)


def test_the_scopes() -> None:
    assert {name for name, scope in NEEDED.items() if scope is Scope.ADMIN} == {"DeleteImage"}
    writing = {name for name, scope in NEEDED.items() if scope is Scope.WRITE}
    assert writing == {"CreateImage", "WriteStream", "BuildPyramid"}


def test_every_rpc_is_tried() -> None:
    assert set(REQUESTS) == {method.name for method in SERVICE.methods}


@pytest.mark.parametrize("method", REQUESTS)
def test_nobody_gets_nothing(guarded: Guarded, method: str) -> None:
    for token in (None, "x", "zgt_", "zgt_0_0"):
        found = guarded.caller(token).refused(method, REQUESTS[method]("lab/run"))
        assert (found.code, found.reason, found.domain) == (
            Code.UNAUTHENTICATED,
            "UNAUTHENTICATED",
            "ziggurat",
        )
        assert "lab" not in found.message


SHORT = [
    (method, who, held)
    for method, needed in NEEDED.items()
    for who, held in (("reader", Scope.READ), ("writer", Scope.WRITE))
    if held < needed
]


@pytest.mark.parametrize(("method", "who", "held"), SHORT)
def test_a_scope_reaches_so_far(guarded: Guarded, method: str, who: str, held: Scope) -> None:
    found = guarded.caller(guarded.people[who]).refused(method, REQUESTS[method]("lab/run"))
    assert (found.code, found.reason) == (Code.PERMISSION_DENIED, "PERMISSION_DENIED")
    assert found.metadata == {"scope": held.word, "needed": NEEDED[method].word}


OUTSIDE = {
    "a neighbour": "lab2/run",
    "its sibling": "lab2",
    "another": "other/run",
    "nothing": "other/none",
    "up and down": "lab/../other/run",
    "up": "lab/..",
    "doubled": "lab//run",
    "absolute": "/lab/run",
    "here": "lab/./run",
    "from above": "./lab/run",
    "empty": "",
    "by its path": "lab.ome.zarr/../other/run",
    "in capitals": "LAB/run",
    "with a NUL": "lab\0/run",
    "backwards": "lab\\run",
}


@pytest.mark.parametrize("name", OUTSIDE.values(), ids=OUTSIDE)
def test_a_prefix_confines_every_call(guarded: Guarded, name: str) -> None:
    """Who may do all below lab/ can't do, or learn, anything elsewhere."""
    boss = guarded.caller(guarded.people["boss"])
    for method, request in REQUESTS.items():
        if method in ("ListImages", "GetStatus"):
            continue
        found = boss.refused(method, request(name))
        assert found.code is Code.PERMISSION_DENIED, (method, found)
        assert found.metadata["prefix"] == "lab"
    with guarded.connect() as client:
        assert [image.name for image in client.list("other")] == ["other/run"]


def test_what_is_no_message(guarded: Guarded) -> None:
    for who in (guarded.people["boss"], guarded.admin_token):
        for method in REQUESTS:
            if method != "GetStatus":
                found = guarded.caller(who).refused(method, b"\xff\xff\xff")
                assert (found.code, found.fields) == (Code.INVALID_ARGUMENT, ("request",)), method


def test_there_or_not_sounds_the_same(guarded: Guarded) -> None:
    boss = guarded.caller(guarded.people["boss"])
    for method, request in REQUESTS.items():
        if method not in ("ListImages", "GetStatus"):
            there, absent = (
                boss.refused(method, request(f"other/{name}")) for name in ("run", "not")
            )
            assert there == absent._replace(message=absent.message.replace("/not", "/run"))


def test_inside_all_is_as_ever(guarded: Guarded) -> None:
    for name in ("lab", "lab/run"):
        with guarded.connect(guarded.people["reader"]) as client:
            assert (client.open(name).read() == 1).all()
        boss = guarded.caller(guarded.people["boss"])
        for method in ("GetImage", "ReadRegion", "ReadRegions", "ListFrames", "BuildPyramid"):
            assert not isinstance(boss.call(method, REQUESTS[method](name)), Failure), method
    absent = boss.refused("GetImage", REQUESTS["GetImage"]("lab/none"))
    assert absent.code is Code.NOT_FOUND


def test_one_of_many_reads_is_enough(guarded: Guarded) -> None:
    reads = [read_pb2.ReadRequest(image=name) for name in ("lab/run", "lab/run", "other/run")]
    found = guarded.caller(guarded.people["reader"]).refused(
        "ReadRegions", read_pb2.ReadRegionsRequest(reads=reads)
    )
    assert (found.code, found.metadata["field"]) == (Code.PERMISSION_DENIED, "reads[2].image")


def test_lists_leave_out_what_is_not_the_callers(guarded: Guarded) -> None:
    def names(token: str, prefix: str = "") -> list[str]:
        with guarded.connect(token) as client:
            return [image.name for image in client.list(prefix)]

    reader = guarded.people["reader"]
    assert names(guarded.admin_token) == ["lab", "lab/run", "lab2/run", "other/run"]
    assert names(reader) == names(reader, "lab") == ["lab", "lab/run"]
    assert names(reader, "lab2") == names(reader, "other") == []
    # A page says nothing of what lies behind it, or of where it begins.
    page = service_pb2.ListImagesRequest(page_size=2, page_token="l")
    (answer,) = guarded.caller(reader).call("ListImages", page)
    assert service_pb2.ListImagesResponse.FromString(answer).next_page_token == ""


def test_labels_are_where_their_image_is(guarded: Guarded) -> None:
    spec = image_pb2.ImageSpec(name="cells", labels_of="other/run", data_type="DATA_TYPE_UINT8")
    request = service_pb2.CreateImageRequest(spec=spec)
    writer = guarded.caller(guarded.people["writer"])
    assert writer.refused("CreateImage", request).code is Code.PERMISSION_DENIED
    # Nor does a name lead out of an image that is the caller's.
    spec.labels_of, spec.name = "lab/run", "../../../other/run"
    assert writer.refused("CreateImage", request).code is Code.PERMISSION_DENIED


def test_status_is_about_all(guarded: Guarded) -> None:
    with (
        guarded.connect(guarded.people["boss"]) as client,
        pytest.raises(ziggurat.PermissionDenied),
    ):
        client.status()
    with guarded.connect() as client:
        assert client.status().images == 4


def test_only_the_first_message_opens_a_stream(guarded: Guarded) -> None:
    """A stream that begins with an image of the caller's can't go on with another."""
    writer = guarded.caller(guarded.people["writer"])
    stub = writer.channel.stream_stream(
        f"/{SERVICE.full_name}/WriteStream", write_pb2.WriteRequest.SerializeToString
    )
    opens = [
        write_pb2.WriteRequest(open=write_pb2.Open(image=name, stream_id="s"))
        for name in ("lab/run", "other/run")
    ]
    with pytest.raises(grpc.RpcError) as caught:
        list(stub(iter(opens), metadata=writer.metadata, timeout=60))
    assert caught.value.code() is Code.FAILED_PRECONDITION
    with guarded.connect() as client:
        assert client.open("other/run").streams[0].regions == 1


def test_no_message_at_all(guarded: Guarded) -> None:
    for method in REQUESTS:
        stub = guarded.channel.stream_stream(f"/{SERVICE.full_name}/{method}")
        for token, code in (
            (None, Code.UNAUTHENTICATED),
            (guarded.admin_token, Code.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                list(stub(iter(()), metadata=guarded.caller(token).metadata, timeout=60))
            streams = method == "WriteStream" and token is not None
            assert caught.value.code() is (Code.FAILED_PRECONDITION if streams else code), method


def test_health_needs_no_token(guarded: Guarded) -> None:
    check = guarded.channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )
    assert check(health_pb2.HealthCheckRequest(), timeout=60).status == 1


def test_reflection_is_for_those_who_may_read(guarded: Guarded) -> None:
    ask = guarded.channel.stream_stream(
        f"/{REFLECTION.full_name}/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    with pytest.raises(grpc.RpcError) as caught:
        list(ask(iter([request]), timeout=60))
    assert caught.value.code() is Code.UNAUTHENTICATED
    reader = guarded.caller(guarded.people["reader"])
    (answer,) = ask(iter([request]), metadata=reader.metadata, timeout=60)
    names = {service.name for service in answer.list_services_response.service}
    # All that the server has is in the table.
    assert names == {service.full_name for service in (SERVICE, HEALTH, REFLECTION)}


HEADERS = {
    "two": [("authorization", "Bearer {admin}"), ("authorization", "Bearer {admin}")],
    "another scheme": [("authorization", "Basic {admin}")],
    "no scheme": [("authorization", "{admin}")],
    "no token": [("authorization", "Bearer ")],
    "another name": [("x-authorization", "Bearer {admin}")],
    "binary": [("authorization-bin", b"Bearer {admin}")],
    "longer": [("authorization", "Bearer {admin}x")],
    "in capitals": [("authorization", "Bearer ZGT_{admin}")],
    "large": [("authorization", "Bearer zgt_" + 7000 * "a")],
    "large with dots": [("authorization", "Bearer " + 2000 * "a.b")],
}


@pytest.mark.parametrize("metadata", HEADERS.values(), ids=HEADERS)
def test_what_is_no_token(guarded: Guarded, metadata: list[tuple[str, str | bytes]]) -> None:
    said = [
        (key, value if isinstance(value, bytes) else value.format(admin=guarded.admin_token))
        for key, value in metadata
    ]
    found = Caller(guarded.channel, said).refused("GetStatus", service_pb2.GetStatusRequest())
    assert found.code is Code.UNAUTHENTICATED
    assert guarded.admin_token not in found.message


def test_a_header_beyond_what_gRPC_takes(guarded: Guarded) -> None:
    """gRPC refuses it before anybody looks; the server goes on."""
    said = [("authorization", "Bearer " + 2**17 * "a")]
    found = Caller(guarded.channel, said).refused("GetStatus", service_pb2.GetStatusRequest())
    assert found.code in (Code.RESOURCE_EXHAUSTED, Code.UNAVAILABLE, Code.INTERNAL)
    with guarded.connect() as client:
        client.status()
