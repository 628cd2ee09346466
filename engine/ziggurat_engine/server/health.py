"""Is a server ready? Asked by grpc.health.v1, as an orchestrator does.

Imports little: a container asks again and again.
"""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2


def ask(address: str, timeout_seconds: float) -> str:
    """SERVING, NOT_SERVING, or why there was no answer. A wildcard address means this machine."""
    with grpc.insecure_channel(address) as channel:
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
