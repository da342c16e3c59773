"""Sessions of a run are lent, given back and lent again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest

from pgscale.connect.session import CONTROL, WORKER, Session
from pgscale.core.model import ignore_progress
from pgscale.livecopy.throttle import Throttle
from pgscale.livecopy.work import Telling, Work
from support.servers import Database


@pytest.fixture
def work(database: Database) -> Iterator[Work]:
    one = Work(
        dsn=database.dsn,
        role=database.owner,
        oid=1,
        run_id=1,
        stop=threading.Event(),
        throttle=Throttle("fast", 1.0),
        tell=Telling(ignore_progress, "t"),
        table="t",
    )
    yield one
    one.close()
    assert all(session.closed for session in one.sessions)


def _setting(session: Session, name: str) -> str:
    return str(session.execute("SELECT current_setting(%s)", [name]).fetchall()[0][0])


def test_a_session_is_lent_again_as_if_it_were_new(work: Work, database: Database) -> None:
    with work.session(WORKER) as first:
        pid = first.info.backend_pid
        fresh = {name: _setting(first, name) for name in ("work_mem", "lock_timeout", "jit", "plan_cache_mode", "role")}
        first.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        first.execute("SET work_mem = '32MB'; SET lock_timeout = 0; SET plan_cache_mode = force_generic_plan")
        with work.session(WORKER) as other:
            assert other.info.backend_pid != pid, "one is lent to one at a time"
    with work.session(WORKER) as again:
        assert again.info.backend_pid == pid
        assert {name: _setting(again, name) for name in fresh} == fresh
        assert fresh["role"] == database.owner
        assert again.isolation_level is None
        with work.session(CONTROL) as control:
            assert control.info.backend_pid != pid, "a profile's session is not lent as another's"


def test_what_failed_or_is_in_a_transaction_is_not_lent_again(work: Work) -> None:
    with pytest.raises(ZeroDivisionError), work.session(CONTROL) as failed:
        raise ZeroDivisionError
    assert failed.closed
    with work.session(CONTROL) as opened:
        opened.execute("BEGIN")
    assert opened.closed


def test_what_was_idle_for_long_or_has_ended_is_not_lent_again(
    work: Work, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with work.session(CONTROL) as one:
        pid = one.info.backend_pid
    database.connect_superuser().execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
    with work.session(CONTROL) as another:
        pid = another.info.backend_pid
    assert one.closed
    monkeypatch.setattr(Work, "IDLE_S", 0.0)
    with work.session(CONTROL) as third:
        assert third.info.backend_pid != pid
    assert another.closed
    work.stop.set()
    with work.session(replace(CONTROL, purpose="last")) as last:
        pass
    assert last.closed, "a run that stops keeps none"
