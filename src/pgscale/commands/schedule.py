"""`pgscale partition schedule`: ready schedules for `maintain`; nothing is installed."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Literal

from pgscale.commands import FILE_NAME
from pgscale.core.model import Report
from pgscale.errors import UsageError

Kind = Literal["systemd", "cron", "kubernetes", "pg_cron"]
KINDS: tuple[Kind, ...] = ("systemd", "cron", "kubernetes", "pg_cron")
_IMAGE = "python:3.12-slim"
_NO_PG_CRON = (
    "pg_cron cannot run this: it runs SQL inside the server, and `maintain` is a program outside of it. It decides by"
    " a file of yours, writes archives to a directory of yours, and uses ALTER TABLE … DETACH PARTITION CONCURRENTLY,"
    " which no function may execute. Use one of the others; without any, `pgscale partition maintain --loop` goes on by"
    " itself."
)


def schedule(every_s: float, kinds: tuple[Kind, ...], config: Path | None = None) -> Report:
    """Return the schedules as text and as JSON, by kind and then by file.

    Raises:
        UsageError: an interval under a minute, or one that the asked kind cannot express.
    """
    if every_s < 60:
        raise UsageError(f"--every is {every_s:g} s; schedulers begin at one minute.", hint="Use maintain --loop.")
    file = (config or Path(FILE_NAME)).absolute()
    files = {kind: _FILES[kind](every_s, file) for kind in (kinds or KINDS)}
    lines: list[str] = []
    for named in files.values():
        lines += [f"# {name}\n{text}" for name, text in named.items()]
    return Report(data={kind: {**named} for kind, named in files.items()}, text="\n".join(lines).rstrip())


def _program() -> str:
    beside = Path(sys.executable).with_name("pgscale")
    return str(beside) if beside.exists() else f"{sys.executable} -m pgscale"


def _systemd(every_s: float, config: Path) -> dict[str, str]:
    service = f"""[Unit]
Description=Look after the partitions of PostgreSQL tables
After=network-online.target
Wants=network-online.target

[Service]
Type=oneshot
# One line, readable by root only: PGSCALE_DSN=postgresql://…
EnvironmentFile=/etc/pgscale/environment
ExecStart={_program()} partition maintain --config "{_systemd_escaped(str(config))}"
"""
    timer = f"""[Unit]
Description=Run pgscale-maintain.service

[Timer]
OnBootSec=5min
OnUnitActiveSec={round(every_s)}s
RandomizedDelaySec={min(60, round(every_s / 10))}s

[Install]
WantedBy=timers.target
"""
    return {
        "/etc/systemd/system/pgscale-maintain.service": service,
        "/etc/systemd/system/pgscale-maintain.timer": timer,
    }


def _systemd_escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")


def _cron(every_s: float, config: Path) -> dict[str, str]:
    # In a crontab an unescaped per cent sign ends the command.
    command = f"{_program()} partition maintain --config {shlex.quote(str(config))}".replace("%", "\\%")
    return {"crontab": f"{_cron_times(every_s)} . /etc/pgscale/environment && export PGSCALE_DSN && {command}\n"}


def _kubernetes(every_s: float, config: Path) -> dict[str, str]:
    return {
        "pgscale-maintain.yaml": f"""apiVersion: batch/v1
kind: CronJob
metadata:
  name: pgscale-maintain
spec:
  schedule: "{_cron_times(every_s)}"
  concurrencyPolicy: Forbid
  jobTemplate:
    spec:
      backoffLimit: 0
      template:
        spec:
          restartPolicy: Never
          containers:
            - name: maintain
              # An image with `pip install 'pgscale[archive]'` in it; this base has none.
              image: {_IMAGE}
              command: ["pgscale", "partition", "maintain", "--config", "/etc/pgscale/{FILE_NAME}"]
              env:
                - name: PGSCALE_DSN
                  valueFrom: {{secretKeyRef: {{name: pgscale, key: dsn}}}}
              volumeMounts:
                - {{name: config, mountPath: /etc/pgscale, readOnly: true}}
          volumes:
            # kubectl create configmap pgscale --from-file={FILE_NAME}={shlex.quote(str(config))}
            - name: config
              configMap: {{name: pgscale}}
"""
    }


def _pg_cron(every_s: float, config: Path) -> dict[str, str]:
    del every_s, config
    return {"pg_cron": f"{_NO_PG_CRON}\n"}


_FILES = {"systemd": _systemd, "cron": _cron, "kubernetes": _kubernetes, "pg_cron": _pg_cron}


def _cron_times(every_s: float) -> str:
    """Return the five fields of cron, which only know parts of an hour and of a day.

    Raises:
        UsageError: the interval divides neither.
    """
    minutes, rest = divmod(every_s, 60)
    if not rest and minutes < 60 and 60 % minutes == 0:
        return f"*/{minutes:.0f} * * * *" if minutes > 1 else "* * * * *"
    hours, rest = divmod(every_s, 3600)
    if not rest and hours <= 24 and 24 % hours == 0:
        return "0 0 * * *" if hours == 24 else "0 * * * *" if hours == 1 else f"0 */{hours:.0f} * * *"
    raise UsageError(
        f"cron cannot run something every {every_s / 60:g} minutes.",
        hint="Use a part of an hour or of a day (15min, 1h, 6h, 1d), or --kind systemd.",
    )
