"""Which settings has the engine, and where do they come from?

Flags win over the environment (ZIGGURAT_CACHE_BYTES=...), the environment over the TOML
file, the file over the defaults. Sizes may carry a unit ("512MiB"); every number's unit
is in its name. Settings are read once and passed down as plain values. What can't work
together is refused here, by the names of both.
"""

from __future__ import annotations

import json
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ziggurat_engine.cgroup import cores, memory_bytes
from ziggurat_engine.errors import InvalidArgument
from ziggurat_engine.names import check_name

MIB = 2**20

# What a segment of the log holds beside the largest message: headers and names.
SEGMENT_OVERHEAD_BYTES = 2048
# The active segment of the log, one ahead of need, and two kept to be used again.
LEAST_SEGMENTS = 4

Bytes: TypeAlias = Annotated[ByteSize, Field(gt=0)]
# gRPC counts in milliseconds that have 31 bits.
Seconds: TypeAlias = Annotated[float, Field(ge=0.001, le=1e6)]


class Quota(BaseModel):
    """What the images at and below a prefix may use together; see quotas.py. None: no limit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix: str = Field(description='path of images ("lab/"), by whole segments; "": of all')
    max_stored_bytes: Bytes | None = Field(
        default=None, description="bytes of their files on disk: all levels, metadata and frames"
    )
    max_streams: PositiveInt | None = Field(
        default=None, description="write streams to them that are open at a time"
    )
    max_bytes_per_second: Bytes | None = Field(
        default=None, description="bytes that their streams send; who is faster is slowed down"
    )
    max_images: PositiveInt | None = Field(default=None, description="how many there may be")

    @field_validator("prefix")
    @classmethod
    def _path(cls, prefix: str) -> str:
        try:
            return check_name(prefix.rstrip("/"), "prefix") if prefix.strip("/") else ""
        except InvalidArgument as error:
            raise ValueError(error.message) from None


_toml_file: ContextVar[Path | None] = ContextVar("toml_file")


def load(toml: Path | None = None, **flags: Any) -> Settings:
    """The settings; `flags` that are None were not given.

    Raises pydantic.ValidationError, which names each setting at fault, and OSError or
    tomllib.TOMLDecodeError where the file can't be read.
    """
    if toml is not None and not toml.is_file():
        raise FileNotFoundError(f"no settings file {toml}")
    token = _toml_file.set(toml)
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    finally:
        _toml_file.reset(token)


class Settings(BaseSettings):
    """Everything that can be set; frozen once made."""

    model_config = SettingsConfigDict(frozen=True, env_prefix="ZIGGURAT_", extra="forbid")

    data: Path = Field(description="directory that holds the images; made where missing")
    log: Path | None = Field(
        default=None, description="directory of the write-ahead log; default: log in the data one"
    )
    log_segment_bytes: Bytes = Field(
        default=ByteSize(256 * MIB),
        ge=4096,
        le=4096 * MIB - 64,
        multiple_of=64,
        description="size of one file of the log; a multiple of 64, and room for a message",
    )
    max_log_bytes: Bytes = Field(
        default=ByteSize(4096 * MIB),
        description="above this the oldest chunks are stored so that the log can be shortened",
    )
    reserve_bytes: Bytes = Field(
        default=ByteSize(1024 * MIB),
        description="no write begins while less is free on the disk of data or log (at most 2 %)",
    )
    accept_loss: bool = Field(
        default=False,
        description="start though acknowledged frames are lost: the log is another one than "
        "before, or holds frames of images that are gone",
    )
    listen: str = Field(
        default="127.0.0.1:7447", description="host:port; port 0: a free one; or unix:PATH"
    )

    tls_cert: Path | None = Field(
        default=None,
        description="certificate chain that the server shows, PEM: TLS is spoken",
    )
    tls_key: Path | None = Field(default=None, description="private key of tls_cert, PEM")
    tls_client_ca: Path | None = Field(
        default=None, description="clients must show a certificate that one of these signed, PEM"
    )
    allow_plaintext: bool = Field(
        default=False,
        description="listen without TLS beyond loopback: all on the way can read along",
    )
    auth: Literal["none", "token"] = Field(
        default="none", description='"token": every call but those of health needs a token'
    )
    allow_anonymous: bool = Field(
        default=False, description='listen beyond loopback with auth = "none": everybody may delete'
    )
    jwt_issuer: str = Field(
        default="", description='with auth = "token": JWTs of this issuer (claim iss) count as well'
    )
    jwt_audience: str = Field(default="", description="what their claim aud must name")
    jwt_keys: str = Field(
        default="", description="the issuer's public keys: a JWKS file, or its https URL"
    )
    jwt_keys_seconds: Seconds = Field(default=300.0, description="keys are fetched this often")
    jwt_scope_claim: str = Field(
        default="scope", description="claim with ziggurat:read, ziggurat:write or ziggurat:admin"
    )
    jwt_prefix_claim: str = Field(
        default="ziggurat_prefix", description='claim with the path that may be seen; "/": all'
    )
    jwt_leeway_seconds: NonNegativeFloat = Field(
        default=30.0, description="how far the issuer's clock may be off"
    )
    audit_log: str = Field(
        default="",
        description='file for a line of JSON on each change; "-": standard output; default:'
        " audit.jsonl in the data directory",
    )
    audit_log_bytes: Bytes = Field(
        default=ByteSize(64 * MIB), description="a fuller file of the audit log is put aside"
    )
    audit_log_files: PositiveInt = Field(
        default=10, description="files of the audit log that are kept beside the present one"
    )

    cache_bytes: Bytes = Field(
        default_factory=lambda: ByteSize(max(256 * MIB, memory_bytes() // 4)),
        ge=2**14,
        description="memory for chunks, dirty and clean together; default a quarter of what the"
        " process may use",
    )
    prefault_bytes: ByteSize = Field(
        default=ByteSize(1024 * MIB),
        ge=0,
        description="memory that is touched once the server has started, so that what comes first"
        " does not wait for it; at most half of cache_bytes",
    )
    max_open_shards: PositiveInt = Field(default=256, description="files kept open for reads")
    kernels: Literal["auto", "cuda", "cpu", "reference"] = Field(
        default="auto", description="who encodes and downsamples; auto: cards where there are any"
    )
    device_memory_bytes: Bytes = Field(
        default=ByteSize(4096 * MIB), description="memory of each card that may be used"
    )
    device_batch_bytes: Bytes = Field(
        default=ByteSize(64 * MIB),
        ge=2**16,
        description="raw pixels that go to a card at a time; about 8 times that is pinned in RAM",
    )
    device_timeout_seconds: PositiveFloat = Field(
        default=120.0,
        description="a card that leaves a batch without an answer for so long is not used again"
        " before a restart; the CPU does the batch",
    )
    kernel_threads: PositiveInt = Field(
        default_factory=cores,
        description="threads that encode and downsample; default all it may use",
    )
    settle_workers: PositiveInt = Field(
        default=2, description="shards stored at a time, at most; one where clients write"
    )
    settle_idle_seconds: PositiveFloat = Field(
        default=10.0, description="a shard that nobody wrote to for this long is stored"
    )
    settle_busy_seconds: PositiveFloat = Field(
        default=60.0, description="a shard that is written to all the time is stored this often"
    )
    read_threads: PositiveInt = Field(
        default_factory=cores, description="threads that assemble reads; default all it may use"
    )
    read_part_bytes: Bytes = Field(default=ByteSize(MIB), description="size of one part of a read")
    max_small_read_bytes: Bytes = Field(
        default=ByteSize(2 * MIB), description="most that a read brings in one message"
    )
    max_read_bytes: Bytes = Field(
        default=ByteSize(8 * 1024 * MIB),
        description="most that one call reads, of all its boxes together",
    )
    max_read_chunks: PositiveInt = Field(
        default=4 * 2**20,
        description="most chunks that one call looks at, of all its boxes together",
    )
    read_ahead_bytes: Bytes = Field(
        default=ByteSize(32 * MIB),
        description="of all reads, what may be ready and not sent, beyond a piece of each",
    )
    scan_ahead_bytes: Annotated[ByteSize, Field(ge=0)] = Field(
        default=ByteSize(32 * MIB),
        description="of chunks that a scan will ask for next, what may be on its way; 0: none",
    )
    max_batch_boxes: PositiveInt = Field(
        default=65536, description="most reads of one batch, in boxes"
    )
    read_projection_bytes: Bytes = Field(
        default=ByteSize(64 * MIB),
        description="memory for the sums of a projection; read_threads of them at a time",
    )
    max_projected_bytes: Bytes = Field(
        default=ByteSize(4 * 2**40),
        description="most pixels that one projection looks through, written or not",
    )
    max_message_bytes: Bytes = Field(
        default=ByteSize(16 * MIB),
        description="most of one message from a client, and of the pixels in shared memory that it"
        " names",
    )
    shared_memory: bool = Field(
        default=True,
        description="whether writers on this machine, of the server's own user, may hand pixels"
        " over in shared memory (Linux)",
    )
    max_shared_memory_bytes: Bytes = Field(
        default=ByteSize(16 * 1024 * MIB),
        description="most memory that one stream may share; it is the client's",
    )
    max_metadata_bytes: Bytes = Field(
        default=ByteSize(16 * 1024), description="most of what a client may say of one frame"
    )
    max_streams: PositiveInt = Field(default=64, description="write streams open at a time")
    stream_lease_seconds: PositiveFloat = Field(
        default=600.0,
        description="a stream that nobody held for this long and nobody closed is abandoned",
    )
    keepalive_seconds: Seconds = Field(
        default=30.0, description="a client that sent nothing for this long is asked for a sign"
    )
    keepalive_timeout_seconds: Seconds = Field(
        default=20.0,
        description="a client that then stays silent for this long is gone: its streams are free",
    )
    max_calls: PositiveInt = Field(
        default=128, description="other calls at a time; each holds a thread"
    )
    max_inflight_bytes: Bytes = Field(
        default=ByteSize(256 * MIB),
        description="of all streams, messages that are received and neither in the log nor in the"
        " cache; beyond it a stream has one message and 4 MiB that wait",
    )
    max_images: PositiveInt = Field(default=100_000, description="images in the server")
    max_connections: PositiveInt = Field(
        default=256, description="connections at a time; one more is closed at once"
    )
    handshake_seconds: Seconds = Field(
        default=20.0,
        description="a connection that has not said by then that it speaks HTTP/2 is closed",
    )
    connection_idle_seconds: Seconds = Field(
        default=3600.0,
        description="a connection without a call for this long is closed; clients"
        " connect again by themselves",
    )
    first_message_seconds: Seconds = Field(
        default=20.0, description="a call that has not brought its first message by then ends"
    )
    stream_idle_seconds: Seconds = Field(
        default=3600.0,
        description="a write call that brought no message for this long ends; it may be resumed",
    )
    send_stall_seconds: Seconds = Field(
        default=900.0,
        description="a call of which the client has not taken an answer for this long ends",
    )
    quotas: tuple[Quota, ...] = Field(
        default=(), description="limits by prefix of names, a table [[quotas]] each; see Quota"
    )
    drain_seconds: PositiveFloat = Field(
        default=30.0, description="how long calls may go on once the server was told to stop"
    )
    chunk_target_bytes: Bytes = Field(
        default=ByteSize(2 * MIB), description="raw size of a chunk where the client names none"
    )
    shard_target_bytes: Bytes = Field(
        default=ByteSize(256 * MIB), description="raw size of a shard where the client names none"
    )
    max_chunk_bytes: Bytes = Field(
        default=ByteSize(64 * MIB), description="most raw bytes of one chunk"
    )
    reflection: bool = Field(
        default=True, description="whether clients may ask what calls there are, and of what shape"
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="what is logged: for people, or a JSON object a line"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="what is logged at least; --verbose: debug"
    )
    access_log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="debug",
        description="level of the line for each call that ends well; one that fails has info at"
        " least, or error where the server is at fault",
    )
    metrics_listen: str = Field(
        default="",
        pattern=r"^$|^.+:\d{1,5}$",
        description="host:port where /metrics answers Prometheus, to whoever asks; empty: nowhere",
    )
    metrics_prefixes: PositiveInt = Field(
        default=32,
        description="first segments of image names that metrics tell apart, and one for the rest",
    )
    trace_endpoint: str = Field(
        default="",
        pattern=r"^$|^https?://.+",
        description="where spans go: the URL of an OpenTelemetry collector that takes OTLP over"
        " gRPC, http:// or https://; empty: nowhere",
    )
    trace_ratio: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="of the calls and regions that no client traces, the part that is traced",
    )
    tune_malloc: bool = Field(
        default=True, description="re-execute the server with malloc settings for large messages"
    )

    @field_validator("quotas", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return json.loads(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _limits_fit(self) -> Self:
        for low, high in (
            ("max_message_bytes", "max_inflight_bytes"),
            ("first_message_seconds", "stream_idle_seconds"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(
                    f"{low} = {getattr(self, low)} is more than {high} = {getattr(self, high)}"
                )
        prefixes = [quota.prefix for quota in self.quotas]
        for k, quota in enumerate(self.quotas):
            where = f"quotas[{k}], prefix {quota.prefix!r}"
            if quota.prefix in prefixes[:k]:
                raise ValueError(f"{where}: there is one already")
            for name in ("max_streams", "max_images"):
                value, most = getattr(quota, name), getattr(self, name)
                if value is not None and value > most:
                    raise ValueError(f"{where}: {name} = {value} is more than the server's, {most}")
        return self

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        least = self.max_message_bytes + SEGMENT_OVERHEAD_BYTES
        if self.log_segment_bytes < least:
            raise ValueError(
                f"log_segment_bytes = {self.log_segment_bytes:d} can't hold a message of"
                f" max_message_bytes = {self.max_message_bytes:d}: at least {least} are needed"
            )
        if self.max_log_bytes < LEAST_SEGMENTS * self.log_segment_bytes:
            raise ValueError(
                f"max_log_bytes = {self.max_log_bytes:d} is less than {LEAST_SEGMENTS} times"
                f" log_segment_bytes = {self.log_segment_bytes:d}, which the log needs at least"
            )
        for name in ("max_chunk_bytes", "shard_target_bytes"):
            if self.chunk_target_bytes > getattr(self, name):
                raise ValueError(
                    f"chunk_target_bytes = {self.chunk_target_bytes:d} is more than"
                    f" {name} = {getattr(self, name):d}"
                )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key are needed together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        jwt = [bool(text) for text in (self.jwt_issuer, self.jwt_audience, self.jwt_keys)]
        if any(jwt) and not all(jwt):
            raise ValueError("jwt_issuer, jwt_audience and jwt_keys are needed together")
        if any(jwt) and self.auth != "token":
            raise ValueError('jwt_issuer needs auth = "token"')
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - part of the hook
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - part of the hook
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, then the file of `load`."""
        file = TomlConfigSettingsSource(settings_cls, toml_file=_toml_file.get(None))
        return init_settings, env_settings, file
