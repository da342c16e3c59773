"""Fixtures: real servers, one fresh database a test. See support/servers.py for how servers are shared."""

from __future__ import annotations

import os
import signal
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))  # for `tools`, which is not installed

from tools.servers import in_ci  # noqa: E402 because the path is set first

from pgscale.embedded import Server  # noqa: E402 because the path is set first
from support import servers  # noqa: E402 because the path is set first
from support.bouncer import Bouncer, MissingBouncerError, PoolMode  # noqa: E402 because the path is set first
from support.redis_server import MissingRedisError, RedisServer  # noqa: E402 because the path is set first
from support.servers import Database  # noqa: E402 because the path is set first

ROOT = pytest.StashKey[Path]()
_ALL = bool(os.environ.get("TEST_ALL"))


def pytest_configure(config: pytest.Config) -> None:
    # A shell ignores Ctrl-C for what it starts in the background; tests that press it need it heard, here and in
    # the processes they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers",
        "versions(*majors): run on these PostgreSQL versions, without it on 18; `versions('all')`: on the oldest, the"
        " newest and, by turns, one between; `make soak` runs them all (TEST_ALL=1)",
    )
    config.addinivalue_line(
        "markers",
        "sampled(every): of a matrix only each so manieth case is run, evenly; `make soak` runs them all (TEST_ALL=1)",
    )
    if not hasattr(config, "workerinput"):
        servers.clear_abandoned_roots()
        config.stash[ROOT] = servers.make_root()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out most cases of the matrices that are marked so; they stay in `make soak`."""
    if _ALL:
        return
    met: Counter[str] = Counter()
    kept: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item in items:
        marker = item.get_closest_marker("sampled")
        test = item.nodeid.partition("[")[0]
        (left if marker is not None and met[test] % marker.args[0] else kept).append(item)
        met[test] += 1
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = kept


def pytest_unconfigure(config: pytest.Config) -> None:
    # Not pytest_sessionfinish: the controller's comes before its workers are gone.
    if ROOT in config.stash:
        servers.clear_root(config.stash[ROOT])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    marker = metafunc.definition.get_closest_marker("versions")
    if marker is None:
        return
    if "pg_version" not in metafunc.fixturenames:
        raise pytest.UsageError(f"{metafunc.definition.nodeid} names versions but uses no server")
    majors = marker.args
    if majors == ("all",):
        majors = servers.ALL_VERSIONS if _ALL else _some_versions(metafunc.definition.nodeid)
    metafunc.parametrize("pg_version", majors, indirect=True, ids=[f"pg{major}" for major in majors])


def _some_versions(test: str) -> tuple[int, ...]:
    """The oldest, the newest, and one between that depends on the test's name alone, as all workers must agree."""
    oldest, *between, newest = servers.ALL_VERSIONS
    return (oldest, between[zlib.crc32(test.encode()) % len(between)], newest)


@pytest.fixture
def pg_version(request: pytest.FixtureRequest) -> int:
    """The major version this test runs on; `@pytest.mark.versions(16, 18)` or `versions("all")` set it."""
    version: int = getattr(request, "param", servers.DEFAULT_VERSION)
    _need(version)
    return version


def _need(version: int) -> None:
    try:
        servers.binaries(version)
    except servers.MissingServerError as error:
        _leave_out(str(error))


def _need_extension(version: int, name: str) -> None:
    if not servers.has_extension(version, name):
        _leave_out(f"PostgreSQL {version} has no {name} here; `make servers` says why")


def _leave_out(reason: str) -> NoReturn:
    """Skip; in CI fail, so that CI never passes on fewer servers than it says."""
    if in_ci():
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def server(pg_version: int) -> Server:
    """The session's shared server; never stop it."""
    return servers.shared_server(pg_version)


@pytest.fixture
def database_factory(request: pytest.FixtureRequest, pg_version: int) -> Iterator[Callable[..., Database]]:
    """`database_factory()` makes one more database; `server=` puts it on a private server."""
    made: list[Database] = []

    def make(server: Server | None = None) -> Database:
        where = server if server is not None else request.getfixturevalue("server")
        made.append(servers.create_database(where))
        return made[-1]

    yield make
    for database in reversed(made):
        database.drop()


@pytest.fixture
def database(server: Server, database_factory: Callable[..., Database]) -> Database:
    """A fresh database on the shared server, owned by a fresh role without superuser rights."""
    return database_factory(server)


@pytest.fixture
def quiet_server(pg_version: int) -> Iterator[Server]:
    """A server that no other test uses at the same time; leave it as it was."""
    with servers.quiet_server(pg_version) as quiet:
        yield quiet


@pytest.fixture
def quiet_database(quiet_server: Server, database_factory: Callable[..., Database]) -> Database:
    """A fresh database on the quiet server."""
    return database_factory(quiet_server)


@pytest.fixture
def partman_database(database: Database, pg_version: int) -> Database:
    """A database with pg_partman in schema `partman`, which its owner may read and switch; mark `versions(15)`."""
    _need_extension(pg_version, "pg_partman")
    servers.install_partman(database)
    return database


@pytest.fixture
def hypopg(pg_version: int) -> str:
    """The name of an extension that the server has; mark `versions(15)`."""
    _need_extension(pg_version, "hypopg")
    return "hypopg"


@pytest.fixture
def private_server(pg_version: int) -> Iterator[Callable[..., Server]]:
    """`private_server({"fsync": "on"}, version=16)` starts a server this test may stop, crash and restart."""
    made: list[Server] = []

    def make(settings: Mapping[str, str] | None = None, *, version: int | None = None) -> Server:
        major = version if version is not None else pg_version
        _need(major)
        made.append(servers.private_server(major, settings or {}))
        return made[-1]

    yield make
    for each in made:
        each.stop("immediate")


@pytest.fixture
def bouncer() -> Iterator[Callable[..., Bouncer]]:
    """`bouncer(database.dsn, "transaction")` puts a PgBouncer in front of a database."""
    made: list[Bouncer] = []

    def make(dsn: str, pool_mode: PoolMode, settings: Mapping[str, str] | None = None) -> Bouncer:
        try:
            made.append(Bouncer(dsn, pool_mode, settings))
        except MissingBouncerError as error:
            _leave_out(str(error))
        return made[-1].start()

    yield make
    for each in made:
        each.stop()


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """`redis_server({"appendfsync": "everysec"})` starts a Redis this test may kill and start again."""
    made: list[RedisServer] = []

    def make(settings: dict[str, str] | None = None) -> RedisServer:
        try:
            made.append(RedisServer(tmp_path / f"redis{len(made)}", settings))
        except MissingRedisError as error:
            _leave_out(str(error))
        return made[-1].start()

    yield make
    for each in made:
        each.kill()
