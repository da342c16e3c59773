"""The doctor as its users call it: its answers, and its remedies as they paste them."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from support.cli import pgscale
from support.clients import psql
from support.servers import Database

Answers = dict[str, dict[str, Any]]


class Doctor:
    """`pgscale doctor` on a database, by default as a role with pg_monitor and nothing else.

    Args:
        directory: for pgscale.toml and the samples.
        role: whom to connect as.
    """

    def __init__(self, database: Database, directory: Path, role: str | None = None) -> None:
        self.database = database
        self.role = role if role is not None else monitor_of(database)
        self.samples = directory / "samples"
        self._config = directory / "pgscale.toml"
        self._config.write_text("")

    def limits(self, **areas: dict[str, float]) -> None:
        """Set thresholds: `limits(horizon={"warning_age_s": 0})`."""
        lines = [
            line
            for area, values in areas.items()
            for line in (f"[doctor.{area}]", *(f"{name} = {value}" for name, value in values.items()))
        ]
        self._config.write_text("\n".join(lines))

    def answers(self, *arguments: str) -> Answers:
        """The answers by id of check; asserts that the exit code agrees with them."""
        dsn = self.database.dsn_as(self.role)
        ran = pgscale(
            "doctor", "--json", "--dsn", dsn, "--samples", str(self.samples), "--config", str(self._config), *arguments
        )
        assert "Traceback" not in ran.err, ran.err
        assert ran.exit_code in (0, 1), ran.err
        answered = json.loads(ran.out)
        assert ran.exit_code == (answered["worst"] in ("warning", "critical")), ran.out
        return {answer["check"]: answer for answer in answered["checks"]}

    def answer(self, check: str, *arguments: str) -> dict[str, Any]:
        return self.answers("--only", check, *arguments)[check]

    def finding(self, check: str, *arguments: str) -> dict[str, Any]:
        """The only finding of a check."""
        answer = self.answer(check, *arguments)
        assert answer["answer"] == "finding", answer
        (finding,) = answer["findings"]
        return finding

    def is_well(self, check: str) -> bool:
        return self.answer(check)["answer"] == "well"

    def hours_pass(self, hours: float) -> None:
        """Make the runs so far as much older, as if one had waited."""
        for file in self.samples.glob("*.json"):
            document = json.loads(file.read_text())
            for run in document["runs"]:
                taken_at = datetime.fromisoformat(run["taken_at"]) - timedelta(hours=hours)
                run["taken_at"] = taken_at.isoformat()
            file.write_text(json.dumps(document))

    def apply(self, finding: dict[str, Any], number: int = 0, *, database: Database | None = None) -> None:
        """Paste the SQL of a remedy, as a superuser."""
        remedy = finding["remedies"][number]
        assert remedy["kind"] in ("sql", "setting"), remedy
        paste(database or self.database, remedy["text"])


def paste(database: Database, text: str) -> None:
    """Run SQL as a superuser; what it has set for the server is in force for whoever connects afterwards."""
    with database.connect_superuser() as connection:
        row = connection.execute("SELECT clock_timestamp()").fetchone()
    psql(database.superuser_dsn, text)
    until = time.monotonic() + 30
    while "pg_reload_conf" in text:
        # The postmaster reads its file when it gets to it; new sessions have what it has.
        with database.connect_superuser() as connection:
            if connection.execute("SELECT pg_conf_load_time() >= %s", row).fetchone() == (True,):
                return
        assert time.monotonic() < until
        time.sleep(0.01)


def monitor_of(database: Database) -> str:
    """A role with the rights the doctor asks for."""
    return database.create_role("monitor", "LOGIN IN ROLE pg_monitor")


def plain_role_of(database: Database) -> str:
    """A role without any right."""
    return database.create_role("plain")


def vacuum_shared_catalogs(database: Database) -> None:
    """Clear away what other tests have left in the catalogs of all databases, where autovacuum is off."""
    psql(
        database.superuser_dsn,
        "VACUUM (ANALYZE) pg_authid, pg_auth_members, pg_database, pg_db_role_setting, pg_shdepend, pg_shdescription",
    )


def burn_xids(database: Database, count: int) -> None:
    """Let transaction ids pass, as writers would."""
    with database.connect_superuser() as connection:
        connection.execute(
            f"DO $$ BEGIN FOR i IN 1..{count:d} LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$".encode()
        )
