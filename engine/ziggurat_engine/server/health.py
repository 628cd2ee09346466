"""Is a server ready? Asked by grpc.health.v1, as an orchestrator does.

Imports little: a container asks again and again. No token is needed.
"""

from __future__ import annotations

from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2

# What listens everywhere is asked on loopback: a certificate may count for that.
_WILDCARDS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


def ask(
    address: str,
    timeout_seconds: float,
    *,
    ca: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
    server_name: str | None = None,
) -> str:
    """SERVING, NOT_SERVING, or why there was no answer. A wildcard address means this machine.

    ca: PEM of whom to trust: TLS is spoken. cert, key: PEM, what this side shows.
    server_name: whom the certificate has to name, in the place of the address. OSError
    where a file can't be read.
    """
    host, colon, port = address.rpartition(":")
    address = f"{_WILDCARDS.get(host, host)}{colon}{port}"
    if ca is None:
        opened = grpc.insecure_channel(address)
    else:
        credentials = grpc.ssl_channel_credentials(
            ca.read_bytes(),
            None if key is None else key.read_bytes(),
            None if cert is None else cert.read_bytes(),
        )
        name = [("grpc.ssl_target_name_override", server_name)] if server_name else []
        opened = grpc.secure_channel(address, credentials, name)
    with opened as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(), timeout=timeout_seconds)
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
