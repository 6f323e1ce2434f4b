"""Every setting of the server, once: name, type, default, unit and reason.

The flags of ``tensorwire serve`` (cli.py), the ``TENSORWIRE_*`` environment variables and the TOML file are all derived
from this one schema. A flag wins over the environment, the environment over the file, the file over the default.
What a setting does lives where it is used, not here.
"""

from __future__ import annotations

import re
import tomllib
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ByteSize, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from ..gpu.slab import PAGE
from ..protocol.limits import DEFAULT_PORT, DEFAULT_TLS_PORT
from ..protocol.safe_text import masked
from .defaults import (
    DEFAULT_ADMIN_PORT,
    FAR_LOW_WATER,
    MASKABLE,
    MIN_SALT,
    NEAR_LOW_WATER,
    is_loopback,
)
from .engine.model_toml import MIN_RESULT_BYTES

ENV_PREFIX = "TENSORWIRE_"
_SERVICE_LINK = re.compile("(tcp|udp|sctp)://")
KIB = 1 << 10
MIB = 1 << 20


class SettingsError(Exception):
    """A setting is unknown or has a value that is not allowed; the message names each one and what was expected.
    A key given for a value is not shown.
    """

    def __init__(self, message: str) -> None:
        super().__init__(masked(message))


Network = IPv4Network | IPv6Network


def networks(text: str) -> list[Network]:
    """Parse a comma-separated list such as `127.0.0.0/8, ::1`. Raises ValueError naming the wrong one."""
    return [ip_network(part.strip()) for part in text.split(",") if part.strip()]


def _setting(default: Any, group: str, description: str, **constraints: Any) -> Any:
    return Field(default, description=description, json_schema_extra={"group": group}, **constraints)


class _TomlFile(TomlConfigSettingsSource):
    """The TOML file, with or without a byte order mark."""

    def _read_file(self, file_path: Any) -> dict[str, Any]:
        return tomllib.loads(file_path.read_bytes().decode("utf-8-sig"))


class Settings(BaseSettings):
    """The settings of one server process. Sizes are bytes and accept ``256KiB`` or ``1GiB``; times are seconds."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        extra="forbid",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,
        env_ignore_empty=True,
    )

    keys: Path | None = _setting(
        None,
        "Trust",
        "Key file: who may call which models (`tensorwire keys new` makes it). Read again on changes and on SIGHUP.",
    )
    insecure: bool = _setting(
        False,
        "Trust",
        "Take callers without a key, and frames without a tag, over loopback, a Unix socket or TLS: for trying.",
    )
    session_seconds: float = _setting(
        86_400.0,
        "Trust",
        "Seconds that a connection with a key may last; it is then drained, and the client connects again, with "
        "new keys for its tags.",
        gt=0,
    )

    host: str = _setting(
        "127.0.0.1",
        "Network",
        "Address to listen on. Addresses other than loopback need keys or TLS: anybody may reach them.",
    )
    port: int = _setting(
        DEFAULT_PORT, "Network", "TCP port to listen on; 0 lets the system choose and prints it.", ge=0, le=65535
    )
    tcp: bool = _setting(True, "Network", "Listen on TCP. Switch it off to serve only a Unix socket.")
    tls_port: int | None = _setting(
        None,
        "Network",
        f"TCP port for TLS 1.3; 0 lets the system choose. Unset: no TLS. What clients expect: {DEFAULT_TLS_PORT}.",
        ge=0,
        le=65535,
    )
    tls_cert: Path | None = _setting(
        None, "Network", "PEM file: the server's certificate, then those of its issuers. Read again when it changes."
    )
    tls_key: Path | None = _setting(
        None, "Network", "PEM file: the key of that certificate, unencrypted. Read again when it changes."
    )
    tls_client_ca: Path | None = _setting(
        None, "Network", "PEM file: the CAs of clients' certificates. With it every client must show one (mTLS)."
    )
    tls_principals: Annotated[dict[str, str], NoDecode] = _setting(
        {},
        "Network",
        "Whom client certificates stand for: subject common name=principal, separated by commas; in the TOML file a "
        "table. Others are refused.",
    )
    unix: Path | None = _setting(
        None, "Network", "Path of a Unix socket to listen on as well; its mode is 0600, so its owner alone may connect."
    )
    backlog: int = _setting(
        1024, "Network", "Connections the kernel holds before they are accepted; absorbs a reconnect storm.", ge=1
    )
    max_connections: int = _setting(
        4096, "Network", "Open connections. Above it a new one is closed at once: descriptors are finite.", ge=1
    )
    max_pending: int = _setting(
        256,
        "Network",
        "Connections that have not finished the handshake; above it the oldest of them gives way, so that silent peers "
        "keep nobody out.",
        ge=1,
    )
    unsent_low_water: ByteSize | None = _setting(
        None,
        "Network",
        "Bytes left unsent in the kernel before it asks for more (TCP_NOTSENT_LOWAT); small keeps a small reply from "
        "waiting behind a big one, more lets big ones flow. Default: 128KiB, and 1MiB where `host` is loopback.",
        ge=4 * KIB,
    )

    spin: float | None = _setting(
        None,
        "Network",
        "Seconds to keep asking for bytes, after the last were dealt with, before sleeping until some come: who calls "
        "again at once is answered twice as fast, for the core's time meanwhile. Default: 0.1 ms, while that pays and "
        "no model works in a process of its own. A number: so long every time. 0: never.",
        ge=0,
        le=1,
    )

    control_frames: int = _setting(
        10_000,
        "Trust",
        "Late and refused frames that one connection may send within ten seconds. Some come of a race, so many of a "
        "flood: the connection is closed (CALM).",
        ge=1,
    )
    control_bytes: ByteSize = _setting(
        MIB,
        "Trust",
        "Bytes of answers to PING and to refused calls that may wait for a peer that does not read them; above it the "
        "connection is closed (CALM).",
        ge=4 * KIB,
    )
    penalty_failures: int = _setting(
        10,
        "Trust",
        "Failed handshakes of one source within penalty_window after which it is refused at accept for a while; 0: "
        "never. A source is an IPv4 address or an IPv6 /64; a handshake that succeeds forgets its failures. Ten are "
        "more than mistakes of a person; clients behind one NAT are refused together.",
        ge=0,
    )
    penalty_window: float = _setting(
        60.0,
        "Trust",
        "Seconds within which those failures count: a client that retries each ten is never refused.",
        gt=0,
    )
    penalty_seconds: float = _setting(
        10.0,
        "Trust",
        "Seconds of the first such refusal; each further one takes twice as long, up to five minutes.",
        gt=0,
    )
    penalty_exempt: str = _setting(
        "127.0.0.0/8,::1",
        "Trust",
        "Networks that are never refused so, separated by commas: loopback, and every proxy or load balancer that "
        "hides its clients' addresses.",
    )

    pool_bytes: ByteSize = _setting(
        1 << 30, "Memory", "Shared memory for request bodies and batches. A call that does not fit is refused.", ge=MIB
    )
    pool_keep_bytes: ByteSize = _setting(
        256 * MIB, "Memory", "Free pool memory kept mapped; what is above it goes back to the system.", ge=0
    )
    max_message_bytes: ByteSize | None = _setting(
        None,
        "Memory",
        "Largest body of one message; an idle server takes every one up to it. Default, and most: half of the pool, so "
        "that no connection can hold all of it.",
        ge=1,
    )
    result_bytes: ByteSize | None = _setting(
        None,
        "Memory",
        "Shared memory for the outputs of one model in a process that were not sent yet; the largest power of two in "
        "it is the most that one call may answer with. Larger batches are sent in pieces. model.toml may say "
        "otherwise. Default: a quarter of the pool, at least 256 MiB.",
        ge=MIN_RESULT_BYTES,
    )
    write_high_water: ByteSize = _setting(
        MIB,
        "Memory",
        "Bytes of replies one connection may have waiting beside what the kernel holds; above it its requests are "
        "not read.",
        ge=64 * KIB,
    )
    cache_entries: int = _setting(
        1024, "Memory", "Call signatures remembered per principal; a miss costs about 0.2 ms of decoding.", ge=1
    )
    cache_bytes: ByteSize = _setting(
        4 * MIB, "Memory", "Bytes of metadata those signatures may hold per principal.", ge=4 * KIB
    )

    max_streams: int = _setting(
        1024, "Calls", "Calls one connection may have in flight; one more is refused as not started.", ge=1
    )
    handshake_timeout: float = _setting(
        2.0, "Calls", "Seconds a new connection has to finish the handshake; silent sockets go after it.", gt=0
    )
    write_timeout: float = _setting(
        30.0, "Calls", "Seconds a peer may leave its replies unread before its connection is closed.", gt=0
    )
    body_timeout: float = _setting(
        30.0,
        "Calls",
        "Seconds a big body may take to come, beside one per MiB of it; its connection is closed after that, so that a "
        "peer that stops half-way holds no memory.",
        gt=0,
    )
    drain_timeout: float = _setting(
        30.0, "Calls", "Seconds calls in flight have to finish after SIGTERM before they are cut off.", ge=0
    )

    load_timeout: float = _setting(
        300.0, "Models", "Seconds one model has to load and warm up before the start is given up.", gt=0
    )
    run_limit: float = _setting(
        120.0,
        "Models",
        "Seconds in which a model in a process must end a call while it has some; after that it counts as hung, is "
        "killed, and its calls fail, whatever their deadlines. More than its longest run; model.toml may say "
        "otherwise.",
        gt=0,
    )
    link_roots: Annotated[tuple[Path, ...], NoDecode] = _setting(
        (),
        "Models",
        "Folders outside of a model's own in which links to its files may end: shared stores, caches. Separated by "
        "commas; in the TOML file a list.",
    )
    engine: Literal["inline", "process", "auto"] | None = _setting(
        None, "Models", "Run every model in this kind of engine, whatever its model.toml says; for trials."
    )

    admin: bool = _setting(True, "Admin", "Serve /metrics, /healthz, /readyz and /models over HTTP.")
    admin_host: str = _setting(
        "127.0.0.1", "Admin", "Address of the admin port. It has no authentication: loopback unless you mean it."
    )
    admin_port: int = _setting(
        DEFAULT_ADMIN_PORT, "Admin", "Port of the admin HTTP server; 0 lets the system choose.", ge=0, le=65535
    )

    log_format: Literal["auto", "console", "json"] = _setting(
        "auto", "Logs", "json for machines, console for people; auto is console on a terminal."
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "Logs", "Least level that is written.")

    audit: Path | None = _setting(
        None,
        "Logs",
        "Append one line of JSON per authentication, call and connection to this file (made with mode 0600). SIGHUP "
        "opens it anew, for logrotate. Off by default.",
    )
    audit_mask: str = _setting(
        "",
        "Logs",
        f"Fields of the audit log to replace by a keyed hash, separated by commas: {', '.join(MASKABLE)}.",
    )
    audit_salt: Path | None = _setting(
        None,
        "Logs",
        f"File whose bytes, at least {MIN_SALT} random ones, are the key of that hash. Default: drawn at each start, "
        "so that the hashes of two runs cannot be compared.",
    )

    capture: Path | None = _setting(
        None, "Debug", "Record the frames of every connection to this file; read it with `tensorwire decode`."
    )
    poison: bool = _setting(
        False, "Debug", "Overwrite the receive buffer after each callback, so that a view that outlives it is seen."
    )

    @field_validator("link_roots", mode="before")
    @classmethod
    def _roots_of_text(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("tls_principals", mode="before")
    @classmethod
    def _principals_of_text(cls, value: Any) -> Any:
        """Split what flag and environment give: NAME=PRINCIPAL, separated by commas."""
        if not isinstance(value, str):
            return value
        pairs = [pair.partition("=") for pair in value.split(",")]
        if not all(name.strip() and principal.strip() for name, _, principal in pairs):
            raise ValueError(f"{value!r} is not NAME=PRINCIPAL,NAME=PRINCIPAL; names with , or = go into the TOML file")
        return {name.strip(): principal.strip() for name, _, principal in pairs}

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if self.tls_port is None:
            for name in ("tls_cert", "tls_key", "tls_client_ca", "tls_principals"):
                if getattr(self, name):
                    raise ValueError(
                        f"{name} is given, but there is no TLS without tls_port (usual: {DEFAULT_TLS_PORT})"
                    )
        elif self.tls_cert is None or self.tls_key is None:
            raise ValueError("tls_port needs tls_cert and tls_key; `tensorwire certs dev` makes them for trying")
        elif (self.tls_client_ca is None) != (not self.tls_principals):
            raise ValueError(
                "tls_client_ca and tls_principals go together: whose certificates are taken, and for whom, as "
                "NAME=PRINCIPAL"
            )
        return self

    @field_validator("penalty_exempt")
    @classmethod
    def _networks_are_networks(cls, text: str) -> str:
        networks(text)
        return text

    @field_validator("audit_mask")
    @classmethod
    def _masks_are_fields(cls, text: str) -> str:
        unknown = {name.strip() for name in text.split(",") if name.strip()} - {*MASKABLE}
        if unknown:
            raise ValueError(f"{', '.join(sorted(unknown))} cannot be masked; choose of {', '.join(MASKABLE)}")
        return text

    @property
    def masked(self) -> frozenset[str]:
        """Fields of the audit log that are hashed."""
        return frozenset(name.strip() for name in self.audit_mask.split(",") if name.strip())

    @property
    def exempt_networks(self) -> list[Network]:
        """Networks that get no penalty."""
        return networks(self.penalty_exempt)

    @property
    def message_limit(self) -> int:
        """Largest body of one message in bytes: one that an idle server takes, always."""
        half = int(self.pool_bytes) // 2 // PAGE * PAGE
        return half if self.max_message_bytes is None else min(half, int(self.max_message_bytes))

    @property
    def result_memory(self) -> int:
        """Bytes for outputs of one model."""
        return max(256 * MIB, int(self.pool_bytes) // 4) if self.result_bytes is None else int(self.result_bytes)

    @property
    def low_water(self) -> int:
        """Bytes left unsent in the kernel."""
        if self.unsent_low_water is None:
            return NEAR_LOW_WATER if is_loopback(self.host) else FAR_LOW_WATER
        return int(self.unsent_low_water)

    def __repr__(self) -> str:
        """All settings; a key given in the wrong place is masked."""
        return masked(super().__repr__())

    def __str__(self) -> str:
        """As `repr`, without the name of the class."""
        return masked(super().__str__())

    def from_here(self) -> Self:
        """Return the same with the paths of files absolute: a model may change the working folder. Not that of the Unix
        socket, whose length is limited: nobody opens it again.
        """
        names = [name for name in type(self).model_fields if name != "unix" and isinstance(getattr(self, name), Path)]
        return self.model_copy(update={name: getattr(self, name).absolute() for name in names})

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take flags, then environment, then the TOML file; no dotenv and no secret folder.

        Variables that are empty, as docker compose sets them, count as not there; so do TENSORWIRE_PORT=tcp://... and
        its like, which Kubernetes sets for a service that is called tensorwire, tensorwire-admin or tensorwire-tls.
        """
        if isinstance(env_settings, EnvSettingsSource):
            found = env_settings.env_vars.items()
            env_settings.env_vars = {name: text for name, text in found if not _SERVICE_LINK.match(text or "")}
        return init_settings, env_settings, _TomlFile(settings_cls)


def load_settings(config: Path | None = None, flags: dict[str, Any] | None = None) -> Settings:
    """Make the settings from flags, environment and the TOML file `config`, in this order. Raises SettingsError."""
    if config is not None and not config.is_file():
        raise SettingsError(f"settings file {str(config)!r} does not exist; give the path of a TOML file")

    class FileSettings(Settings):
        model_config = SettingsConfigDict(toml_file=config)

    try:
        return FileSettings(**(flags or {}))
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None
    except ValueError as error:  # a TOML syntax error or an environment value that is not readable
        raise SettingsError(f"settings cannot be read: {error}") from None


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        name = ".".join(str(part) for part in problem["loc"])
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            text = "is not a setting; see `tensorwire serve --help`"
        if name:
            flag, variable = "--" + name.replace("_", "-"), ENV_PREFIX + name.upper()
            text = f"{name}: {text} (flag {flag}, environment {variable}, or the TOML file)"
        lines.append(text)
    return "; ".join(lines)
