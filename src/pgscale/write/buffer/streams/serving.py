"""What a Redis server promises: whether it keeps what it acknowledges, and how its errors read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pgscale.errors import ConnectError, RefusedError, UsageError
from pgscale.write.buffer.model import Durability

TIMEOUT_S = 10.0
OLDEST_VERSION = (6, 2)

_BY_FSYNC: Mapping[str, Durability] = {"always": "power", "everysec": "second", "no": "system"}
# Errors by which a server says that there is no room, or that it cannot write its file.
FULL = ("OOM", "OutOfMemoryError", "MISCONF")
# A server that starts, or is a replica for the moment, is worth another try.
NOT_NOW = (
    *("LOADING", "READONLY", "TRYAGAIN", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS", "BUSY "),
    *("BusyLoadingError", "ReadOnlyError", "TryAgainError", "MasterDownError", "ClusterDownError"),
)


def split_url(url: str) -> tuple[str, str]:
    """Return the server's URL and the buffer's name, which is its parameter `buffer`.

    Raises:
        UsageError: there is none.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _no_url() from None
    given = parse_qsl(parts.query)
    names = [value for name, value in given if name == "buffer"]
    if len(names) != 1 or not names[0] or any(c in names[0] for c in "{}"):
        raise UsageError(
            "The URL of a Redis buffer names it once, without braces.",
            hint="redis://host:6379/0?buffer=events",
        )
    rest = urlencode([(name, value) for name, value in given if name != "buffer"])
    return urlunsplit(parts._replace(query=rest)), names[0]


def _no_url() -> UsageError:
    # The library's own words quote what it stumbled over, often the password; so they are not even chained.
    return UsageError(
        "The URL of the buffer is none of a Redis server.",
        hint="redis://user:password@host:6379/0?buffer=events, where `%`, `@`, `:`, `/`, `?` and `#` in a password must"
        " be percent-encoded (%25, %40, %3A, %2F, %3F, %23).",
    )


def library() -> Any:
    """Return the module redis.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return import_module("redis")
    except ImportError:
        raise UsageError(
            "Level redis needs the Redis client, which is not installed.", hint="pip install 'pgscale[redis]'"
        ) from None


def connect(url: str, met: Callable[[], None]) -> Any:
    """Return a client that tries everything once: trying again is for whoever knows what may be repeated.

    Args:
        met: called whenever a connection is made: who answers may be another server, with other settings.
    """
    redis = library()

    def greet(connection: Any) -> None:
        met()
        connection.on_connect()

    retry = import_module("redis.retry").Retry(import_module("redis.backoff").NoBackoff(), 0)
    try:
        client = redis.Redis.from_url(
            url,
            socket_timeout=TIMEOUT_S,
            socket_connect_timeout=TIMEOUT_S,
            retry=retry,
            protocol=2,
            redis_connect_func=greet,
        )
        # It does not connect yet, and finds out whether all parameters of the URL are known.
        client.connection_pool.make_connection()
    except (ValueError, TypeError):
        raise _no_url() from None
    return client


def read_durability(client: Any) -> Durability:
    """Return what an event survives that the server has acknowledged.

    Raises:
        RefusedError: it keeps no append-only file, or may evict events, or is too old; ConnectError: no answer.
    """
    redis = library()
    try:
        version = str(client.info("server")["redis_version"])
        settings = _read_settings(client, redis)
    except redis.RedisError as error:
        raise ConnectError(f"Redis does not answer: {error}.", hint="Check the URL of the buffer.") from error
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_VERSION:
        raise RefusedError(f"Redis is {version}; a buffer needs 6.2 or later.", hint="Upgrade Redis first.")
    if settings["appendonly"] != "yes":
        raise RefusedError(
            "Redis keeps no append-only file: a restart would lose every event.",
            consequence="Nothing was put.",
            hint="CONFIG SET appendonly yes, and appendfsync always to lose nothing in a loss of power.",
        )
    if int(settings["maxmemory"]) and settings["maxmemory-policy"].startswith("allkeys"):
        raise RefusedError(
            f"Redis evicts any key when its memory is full (maxmemory-policy {settings['maxmemory-policy']}).",
            consequence="Events that nobody has read would be lost silently. Nothing was put.",
            hint="CONFIG SET maxmemory-policy noeviction",
        )
    found = _BY_FSYNC.get(settings["appendfsync"], "unknown")
    if found in ("power", "second") and settings["no-appendfsync-on-rewrite"] == "yes":
        # While a file is rewritten it does not sync at all.
        return "system"
    return found


def _read_settings(client: Any, redis: Any) -> dict[str, str]:
    names = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "maxmemory", "maxmemory-policy")
    try:
        return {name: client.config_get(name)[name] for name in names}
    except (redis.ResponseError, KeyError):
        # Managed servers refuse CONFIG; INFO tells all but how often it syncs.
        told = {**client.info("persistence"), **client.info("memory")}
        return {
            "appendonly": "yes" if told.get("aof_enabled") else "no",
            "appendfsync": "",
            "no-appendfsync-on-rewrite": "",
            "maxmemory": str(told.get("maxmemory", 0)),
            "maxmemory-policy": str(told.get("maxmemory_policy", "")),
        }
