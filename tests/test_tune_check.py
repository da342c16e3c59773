"""`pgscale tune --check`: against the file parsers and the limits of every server, and by starting them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import psycopg
import pytest

from pgscale.doctor.tuning import known
from pgscale.doctor.tuning.conf import parse_text, read_conf
from pgscale.doctor.tuning.fixing import fixed
from pgscale.doctor.tuning.history import DEFAULTS, GONE, default_of, lowers_default
from pgscale.doctor.tuning.judging import STOPS, judge
from pgscale.doctor.tuning.values import BadValueError, format_value, parse_value
from pgscale.embedded.server import ServerError
from support.cli import pgscale

CONF = Path(__file__).parent / "conf"
FILES = sorted(CONF.glob("*.conf"))
# What the build or the machine decides; see tools/settings.py.
BUILT = {"krb_server_keyfile", "server_version", "server_version_num", "shared_buffers", "ssl_ciphers", "ssl_groups"}
BUILT |= {"ssl_ecdh_curve", "ssl_library", "unix_socket_directories", "debug_assertions", "data_directory_mode"}
BUILT |= {"dynamic_shared_memory_type", "wal_sync_method", "max_stack_depth", "extension_destdir"}
VALUES = {
    "work_mem": [
        "64MB",
        "1.5GB",
        "30.1MB",
        "30.9MB",
        "0x100",
        "0100",
        " 64 MB ",
        "1e3kB",
        ".5GB",
        "64mb",
        "64 KB",
        "1MBs",
        "",
        "x",
    ],
    "statement_timeout": ["90s", "1.5min", "1h", "0.0001d", "1500us", "250", "-1", "1sec", "60000ms", "25d"],
    "random_page_cost": ["1.1", "4", "1e2", "-1", "1.1.1", "1,1", "4ms"],
    "vacuum_cost_delay": ["2ms", "1500us", "0.1", "101", "1s"],
    "enable_seqscan": ["on", "OFF", "t", "tru", "of", "o", "1", "0", "yess", "n"],
    "synchronous_commit": ["local", "Remote_Apply", "true", "no", "offf", "0"],
    "client_min_messages": ["debug", "warning", "info", "LOG", "loud"],
    "wal_compression": ["on", "true", "off", "no", "pglz"],
    "bytea_output": ["hex", "on", "HEX"],
    "from_collapse_limit": ["8", "8.4", "8.5", "9.5", "0", "8kB", "2147483647", "2147483648"],
    "extra_float_digits": ["+3", "-16", "4"],
    "wal_skip_threshold": ["2MB", "2TB", "3TB"],
}


@pytest.mark.versions("all")
def test_every_server_agrees_with_the_names_limits_and_values_that_are_known(pg_version, database):
    ours = known.settings_of(pg_version)
    with database.connect_superuser() as connection:
        rows = connection.execute(
            "SELECT name, vartype, unit, min_val::float8, max_val::float8, enumvals, boot_val, context FROM pg_settings"
            " WHERE name !~ '[.]'"
        ).fetchall()
        assert {row[0] for row in rows} - ours.keys() == set()
        assert ours.keys() - {row[0] for row in rows} <= {"extension_destdir"}
        for name, kind, unit, least, most, words, default, context in rows:
            there = ours[name]
            shape = (there.kind, there.unit, there.context)
            assert shape == (kind, unit, context), name
            assert name == "server_version_num" or (there.minimum, there.maximum) == (least, most), name
            assert set(words or ()) <= set(there.values), name
            assert name in BUILT or (there.default or "") == (default or ""), name
        for name, texts in VALUES.items():
            for text in texts:
                try:
                    with connection.transaction():
                        row = connection.execute("SELECT set_config(%s, %s, true)", [name, text]).fetchone()
                    theirs = row[0]
                except psycopg.errors.InvalidParameterValue:
                    theirs = None
                try:
                    mine = format_value(ours[name], parse_value(ours[name], text))
                except BadValueError:
                    mine = None
                assert mine == theirs, (name, text)


def test_history_agrees_with_the_settings_that_are_known():
    for version in range(known.OLDEST, known.NEWEST + 1):
        settings = known.settings_of(version)
        for name, gone in GONE.items():
            assert (name in settings) == (version * 10_000 < gone.since and name not in {"default_with_oids"}) or (
                gone.since < 140_000
            ), (version, name)
            assert name not in settings or gone.since > version * 10_000
        for name, changes in DEFAULTS.items():
            for change in changes:
                if change.since <= version * 10_000:
                    former = parse_value(settings[name], change.former)
                    assert lowers_default(settings[name], former, version * 10_000), (version, name)
                    assert not lowers_default(settings[name], default_of(settings[name]), version * 10_000), name
    # Whatever left between two versions is told of.
    for version in range(known.OLDEST, known.NEWEST):
        left = known.settings_of(version).keys() - known.settings_of(version + 1).keys()
        assert left <= GONE.keys()


def _put(server, text: str) -> None:
    # What the test needs of its own stands last, in pgscale.conf, and wins.
    path = server.data_dir / "postgresql.conf"
    path.write_text(f"{text}\ninclude_if_exists = 'pgscale.conf'\n")


def _lines_refused(connection, server, text: str) -> set[int]:
    """Every line of a file that the server does not take: a few at a time, as it stops at the first kind of error."""
    refused: set[int] = set()
    lines = text.split("\n")
    # Nothing is reloaded, so the server's own port and the like need not stand in it.
    path = server.data_dir / "postgresql.conf"
    while True:
        path.write_text("\n".join("" if number in refused else line for number, line in enumerate(lines, start=1)))
        # Whether a value could not be set at all or not before a restart, the server does not tell.
        found = {
            row[0]
            for row in connection.execute(
                "SELECT f.sourceline FROM pg_file_settings f LEFT JOIN pg_settings s ON lower(s.name) = lower(f.name)"
                " WHERE f.sourcefile = %s AND f.error IS NOT NULL AND s.context IS DISTINCT FROM 'postmaster'",
                [str(path)],
            ).fetchall()
        }
        if not found:
            return refused
        assert not found & refused, found
        refused |= found


@pytest.mark.versions("all")
def test_the_server_refuses_what_is_found_and_takes_what_is_put_in_its_place(pg_version, private_server):
    server = private_server()
    original = (server.data_dir / "postgresql.conf").read_text()
    # Nothing is wrong with what the server's authors ship, commented out or not.
    shipped = re.sub(r"^#(?!include)(\w+ = )", r"\1", original, flags=re.MULTILINE)
    assert len(parse_text(shipped).entries) > 250
    assert judge(parse_text(shipped), pg_version) == ()
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        for file in FILES:
            conf = read_conf(file)
            findings = judge(conf, pg_version)
            stops = {
                finding.line
                for finding in findings
                if finding.problem in STOPS and not _is_found_at_the_start(finding, pg_version)
            }
            assert _lines_refused(connection, server, file.read_text()) == stops, file.name
            corrected = fixed(conf, findings)
            assert _lines_refused(connection, server, corrected) == set(), (file.name, corrected)
            assert judge(parse_text(corrected), pg_version) == (), file.name
            theirs = connection.execute(
                "SELECT lower(name), setting FROM pg_file_settings WHERE name IS NOT NULL ORDER BY seqno"
            ).fetchall()
            ours = [(entry.name, entry.value) for entry in parse_text(corrected).entries]
            assert theirs == ours, file.name
    # Starting takes longer than asking: each file on one or two of the versions.
    server.stop("immediate")
    server.settings = {"fsync": "off"}
    for file in FILES[pg_version % 3 :: 3]:
        conf = read_conf(file)
        _put(server, file.read_text())
        with pytest.raises(ServerError, match="did not start"):
            server.start()
        # Memory and processes as corrected; the sizes fit any machine.
        _put(server, fixed(conf, judge(conf, pg_version)))
        server.start()
        with psycopg.connect(server.dsn()) as connection:
            now = dict(connection.execute("SELECT name, reset_val FROM pg_settings").fetchall())
            for line in {new for finding in judge(conf, pg_version) for new in finding.replacement}:
                for entry in parse_text(line).entries:
                    setting = known.settings_of(pg_version)[entry.name]
                    if entry.name not in {"listen_addresses", "unix_socket_directories"}:
                        assert now[entry.name] == parse_value(setting, entry.value), line
        server.stop("immediate")


def _is_found_at_the_start(finding, version) -> bool:
    setting = known.settings_of(version).get(finding.name)
    late = setting is not None and setting.context == "postmaster" and finding.problem in {"value", "unit", "range"}
    return late or finding.problem == "conflict" or finding.name == "min_wal_size"


def test_lines_that_contradict_one_another_stop_the_server(private_server):
    server = private_server()
    server.stop("immediate")
    server.settings = {"fsync": "off"}
    corrected = ""
    for text, problem in (
        ("wal_level = minimal", "conflict"),
        ("wal_level = minimal\nmax_wal_senders = 0\narchive_mode = on", "conflict"),
        ("superuser_reserved_connections = 3\nreserved_connections = 9\nmax_connections = 12", "conflict"),
        ("min_wal_size = 16MB", "range"),
    ):
        findings = judge(parse_text(text), 18)
        assert problem in {finding.problem for finding in findings}
        _put(server, text)
        with pytest.raises(ServerError, match="did not start"):
            server.start()
        corrected += fixed(parse_text(text), findings)
    _put(server, corrected)
    server.start()


def test_values_are_converted_as_the_release_notes_say():
    text = "checkpoint_segments = 32\nwal_keep_segments = 64\nmax_wal_senders = 5\nwal_level = hot_standby\n"
    found = {finding.name: finding for finding in judge(parse_text(text), 18)}
    assert found["checkpoint_segments"].replacement == ("max_wal_size = 1536MB",)
    assert found["wal_keep_segments"].replacement == ("wal_keep_size = 1024MB",)
    assert (found["max_wal_senders"].problem, found["max_wal_senders"].replacement) == ("lowers-default", ())
    assert found["wal_level"].replacement == ("wal_level = replica",)
    # Three segments would be less than what 9.5 and later have anyway; what is set already stays.
    for conf in ("checkpoint_segments = 3\n", "checkpoint_segments = 64\nmax_wal_size = 4GB\n"):
        (finding,) = judge(parse_text(conf), 18)
        assert (finding.problem, finding.replacement) == ("removed", ())
    # Renamed and still taken on 18; a plain setting before.
    (curve,) = judge(parse_text("ssl_ecdh_curve = 'prime256v1'\n"), 18)
    assert (curve.problem, curve.replacement) == ("renamed", ("ssl_groups = prime256v1",))
    assert judge(parse_text("ssl_ecdh_curve = 'prime256v1'\n"), 17) == ()
    # What was meant by a slip is told where there is no doubt.
    slips = "random_page_cost = '1,1'\nlog_filename = 'pg.log # daily\nwork_mem = 4 G\nport = 0x1538\n"
    assert [f.replacement for f in judge(parse_text(f"{slips}listen_addresses = *\n"), 18)] == [
        ("random_page_cost = 1.1",),
        ("log_filename = 'pg.log'",),
        ("work_mem = 4GB",),
        ("listen_addresses = '*'",),
    ]
    (newer,) = judge(parse_text("io_method = sync\n"), 17)
    assert "came with PostgreSQL 18" in newer.fact


def test_includes_are_followed_as_the_server_does(tmp_path):
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "b.conf").write_text("work_mem = 8MB\n")
    (tmp_path / "conf.d" / "a.conf").write_text("work_mem = 16mb\nwork_mem = 4MB\n")
    (tmp_path / "conf.d" / ".hidden.conf").write_text("nonsense = 1\n")
    (tmp_path / "conf.d" / "readme.txt").write_text("nonsense = 1\n")
    (tmp_path / "loop.conf").write_text("include 'loop.conf'\n")
    main = tmp_path / "postgresql.conf"
    main.write_bytes(b"work_mem = 2MB # caf\xe9\r\ninclude_dir 'conf.d'\r\nInclude = 'loop.conf'\ninclude 'no.conf'\n")
    conf = read_conf(main)
    findings = judge(conf, 18)
    assert [(Path(f.file).name, f.line, f.problem) for f in findings] == [
        ("postgresql.conf", 1, "duplicate"),
        ("a.conf", 1, "duplicate"),
        ("a.conf", 2, "duplicate"),
        ("loop.conf", 1, "include"),
        ("postgresql.conf", 4, "include"),
    ]
    (tmp_path / "PG_VERSION").write_text("15\n")
    out = tmp_path / "fixed.conf"
    ran = pgscale("tune", "--check", str(main), "--fix", str(out), "--json")
    assert ran.exit_code == 1
    data = json.loads(ran.out.encode())  # whatever the file's encoding, it can be printed
    assert (data["version"], [Path(each).name for each in data["not_fixed"]]) == (15, ["a.conf", "loop.conf"])
    assert out.read_bytes() == (
        b"#work_mem = 2MB # caf\xe9  # pgscale: duplicate\r\ninclude_dir 'conf.d'\r\nInclude = 'loop.conf'\n"
        b"#include 'no.conf'  # pgscale: include\n"
    )
    assert pgscale("tune", "--check", str(main), "--fix", str(main)).exit_code == 2
    assert main.read_bytes().startswith(b"work_mem")


def test_the_command_line_says_what_where_and_ends_with_1(tmp_path):
    file = CONF / "pg93_pgtune.conf"
    ran = pgscale("tune", "--check", str(file))
    assert ran.exit_code == 1
    assert f"✗ {file}:3: removed: checkpoint_segments = 32" in ran.out
    assert "→ max_wal_size = 1536MB" in ran.out
    printed = pgscale("tune", "--check", str(file), "--fix", "-", "--for", "16")
    assert printed.exit_code == 1
    well = tmp_path / "well.conf"
    well.write_text(printed.out)
    again = pgscale("tune", "--check", str(well), "--for", "16")
    assert (again.exit_code, "nothing is wrong" in again.out) == (0, True)
    for wrong in (["--check", "none.conf"], ["--check", str(file), "--for", "13"], ["--fix", "x"]):
        assert pgscale("tune", *wrong).exit_code == 2
