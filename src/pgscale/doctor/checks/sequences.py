"""Integer keys that run out: judged by the type of the column, not only by the sequence that feeds it.

No sequence is read, since that locks it: `SELECT last_value` takes ACCESS SHARE, pg_sequence_last_value() (and so
pg_sequences.last_value) ROW EXCLUSIVE, both to the end of the transaction, behind whoever alters or drops it; and it
takes rights on each. The greatest value of the column is known without a lock: the last bound of its histogram in
pg_stats, as of the last ANALYZE. What that misses are values that were drawn and never stored since.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgscale.core.finding import Answer, Finding, Findings, NotChecked, Remedy, Severity, Well, rank
from pgscale.core.model import Json, quote_ident
from pgscale.core.units import format_bytes, format_count, format_duration
from pgscale.doctor import ddl
from pgscale.doctor.facts import LEAST_DELTA_S, Counters, Facts, Section
from pgscale.doctor.limits import Limits
from pgscale.doctor.model import Check

SHOWN = 10
# A key that no sequence feeds and whose values are sparser than this is drawn at random, and does not run out.
LEAST_DENSITY = 0.001
# Of a table never analyzed: fewer rows than make autovacuum analyze it are not worth a word.
UNKNOWN_ROWS = 50
# A rate is measured over as long as earlier runs reach, but no longer: habits change.
MOST_RATE_S = 30 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyColumn:
    """A column that may run out of values; or a sequence that feeds none.

    Args:
        name, column: quoted; None of a sequence that feeds no column.
        type, least, most: of the column.
        sequence, sequence_type, sequence_least, sequence_most, increment: what feeds it; None when nothing does.
        rows, pages: as of the last VACUUM or ANALYZE; -1 rows before the first.
        is_hidden: the login may not see its values.
        inserted_rows: since the statistics were reset, of tables never analyzed.
    """

    oid: int | None
    attnum: int | None
    name: str | None
    column: str | None
    type: str | None
    least: int | None
    most: int | None
    sequence: str | None
    sequence_type: str | None
    sequence_least: int | None
    sequence_most: int | None
    increment: int | None
    rows: float | None
    pages: int | None
    is_partitioned: bool | None
    is_hidden: bool | None
    inserted_rows: int | None

    @property
    def key(self) -> str:
        return f"{self.oid}.{self.attnum}"

    @property
    def shown(self) -> str:
        return f"{self.name}.{self.column}"

    @property
    def is_descending(self) -> bool:
        return (self.increment or 1) < 0

    @property
    def end(self) -> int:
        """The last value it can take."""
        if self.is_descending:
            return max(self.least or 0, self.sequence_least if self.sequence_least is not None else -(1 << 63))
        return min(self.most or 0, self.sequence_most if self.sequence_most is not None else 1 << 63)

    @property
    def ends_with_sequence(self) -> bool:
        """The sequence ends before the column does."""
        return self.end != (self.least if self.is_descending else self.most)

    @property
    def is_unknown(self) -> bool:
        """It has values, but was never analyzed."""
        return not self.is_partitioned and (self.rows or 0) < 0 and (self.inserted_rows or 0) >= UNKNOWN_ROWS


@dataclass(frozen=True, slots=True, kw_only=True)
class NarrowReference:
    """A column of a foreign key that is no wider than what it points to."""

    target_oid: int
    target_attnum: int
    name: str
    column: str
    pages: int


COLUMNS = Section(area="sequences", query="columns", row=KeyColumn)
VALUES = Counters(area="sequences", query="values")
NARROWER = Section(area="sequences", query="narrower", row=NarrowReference)


def judge_keys(facts: Facts, limits: Limits) -> Answer:
    """Report keys that have used up most of their type, or of their sequence."""
    columns = facts.rows(COLUMNS)
    keys = [each for each in columns if each.name is not None]
    if not columns:
        return Well("No key can run out of values.")
    judged: list[tuple[Severity, float, Finding]] = []
    for key in keys:
        found = _judge(facts, limits, key)
        if found is not None:
            judged.append(found)
    if judged:
        judged.sort(key=lambda each: (rank(each[0]), each[1]), reverse=True)
        shown = tuple(finding for _, _, finding in judged[:SHOWN])
        more = f" {len(judged) - SHOWN} more are not shown." if len(judged) > SHOWN else ""
        text = f"{format_count(len(judged), 'key')} near the end, first: {shown[0].fact}{more}"
        return Findings(shown, text if len(judged) > 1 else "")
    hidden = sum(bool(each.is_hidden) for each in keys)
    if hidden:
        role = quote_ident(facts.server.role)
        because = f"the values of {format_count(hidden, 'column')} of {len(keys):,} are hidden from role {role}"
        return NotChecked(because, f"GRANT pg_read_all_data TO {role};")
    said = f"No key of {len(keys):,} that could run out is near its end"
    unknown = sum(each.is_unknown for each in keys)
    if unknown:
        said += (
            f"; {format_count(unknown, 'column')} of tables never analyzed {'is' if unknown == 1 else 'are'} not known"
        )
    loose = len(columns) - len(keys)
    if loose:
        one = loose == 1
        said += f"; {format_count(loose, 'sequence')} that {'feeds' if one else 'feed'} no column"
        said += f" {'is' if one else 'are'} not judged: reading {'it' if one else 'them'} would lock"
    return Well(f"{said}.")


def _judge(facts: Facts, limits: Limits, key: KeyColumn) -> tuple[Severity, float, Finding] | None:
    name = "least" if key.is_descending else "most"
    values = facts.reading(VALUES).rows.get(key.key)
    if values is None or name not in values or key.end == 0:
        return None
    value, thresholds = int(values[name]), limits.sequences
    used = value / key.end
    if key.sequence is None:
        density = (key.rows or 0) / max(1, values["most"] - values["least"])
        if density < LEAST_DENSITY:
            return None
    left = abs(key.end - value)
    per_s, basis = _rate(facts, key, name, value)
    left_s = left / per_s if per_s else None
    severity: Severity | None = None
    if used >= thresholds.critical_used_share or _soon(left_s, used, thresholds.critical_left_s, limits):
        severity = "critical"
    elif used >= thresholds.warning_used_share or _soon(left_s, used, thresholds.warning_left_s, limits):
        severity = "warning"
    if severity is None:
        return None
    lasts = f", which last {format_duration(left_s)} at the present rate" if left_s is not None else ""
    what = f"sequence {key.sequence}" if key.ends_with_sequence else f"its type, {key.type}"
    evidence: dict[str, Json] = {
        "column": key.shown, "type": key.type, "sequence": key.sequence, "sequence_type": key.sequence_type,
        "value": value, "end": key.end, "used_share": used, "left": left, "left_s": left_s,
        "per_day": per_s * 86_400 if per_s else None, "measured": basis,
    }  # fmt: skip
    finding = Finding(
        check=KEYS.id,
        severity=severity,
        subject=key.shown,
        fact=f"{key.shown} has used {used:.0%} of {what}: {left:,} values are left{lasts}.",
        evidence=evidence,
        cost="When none is left every INSERT fails (22003 or 2200H); to widen a big table then takes hours.",
        remedies=_remedies(facts, key),
    )
    return severity, used, finding


def _soon(left_s: float | None, used: float, most_s: float, limits: Limits) -> bool:
    return left_s is not None and left_s < most_s and used >= limits.sequences.least_used_share


def _rate(facts: Facts, key: KeyColumn, name: str, value: int) -> tuple[float | None, str]:
    """How many values are used in a second, since the oldest run that saw a value not past today's."""
    for earlier in facts.earlier(VALUES):
        seconds = (facts.server.read_at - earlier.taken_at).total_seconds()
        before = earlier.rows.get(key.key, {}).get(name)
        if before is None or not LEAST_DELTA_S <= seconds <= MOST_RATE_S:
            continue
        used = before - value if key.is_descending else value - before
        if used > 0:
            return used / seconds, f"since {earlier.taken_at:%Y-%m-%d %H:%M} UTC, by what ANALYZE saw"
    return None, ""


def _remedies(facts: Facts, key: KeyColumn) -> tuple[Remedy, ...]:
    if key.ends_with_sequence and key.sequence is not None:
        bound = "MINVALUE" if key.is_descending else "MAXVALUE"
        why = "At once: nothing is rewritten."
        return (Remedy(text=ddl.widen_sequence(key.sequence, bound), why=why),)
    narrower = [each for each in facts.rows(NARROWER) if (each.target_oid, each.target_attnum) == (key.oid, key.attnum)]
    size = (sum(each.pages for each in narrower) + (key.pages or 0)) * facts.server.block_bytes
    columns = [(key.name or "", key.column or ""), *((each.name, each.column) for each in narrower)]
    sequence = key.sequence if key.sequence_type != "bigint" else None
    why = (
        f"Writes {format_bytes(size)} and their indexes anew while nobody may read or write them. For big tables: add a"
        " bigint column, let a trigger fill it for new rows, fill the old ones in batches, index it CONCURRENTLY, and"
        " exchange the names. Views of the column must be dropped first, and made again."
    )
    return (Remedy(text=ddl.widen_columns(columns, sequence), why=why),)


KEYS = Check(
    id="sequences.keys",
    title="Keys running out",
    question="Does an integer key run out of values?",
    about=(
        "A column of four bytes ends at 2,147,483,647, also when a sequence of eight feeds it; a sequence of four bytes"
        " ends there, also when the column has eight. Judged are columns that sequences feed (identity, serial, a"
        " default with nextval), keys without a sequence whose values are dense, and foreign keys narrower than what"
        " they point to. The value is the greatest that the last ANALYZE saw, in pg_stats: reading a sequence would"
        " lock it (pg_sequences.last_value calls pg_sequence_last_value, which takes ROW EXCLUSIVE), and so a sequence"
        " that feeds no column is not judged. Values drawn and never stored, by rollbacks and ON CONFLICT, count from"
        " the next stored one. How long the rest lasts is measured from run to run. It takes SELECT on the columns,"
        " which pg_read_all_data brings."
    ),
    source=(
        "PostgreSQL, Numeric Types (their ranges) and CREATE SEQUENCE. Widening a big table is a project of weeks:"
        " hence the warning at 70 %, or at half when the rest lasts less than half a year."
    ),
    judge=judge_keys,
    reads=(COLUMNS, VALUES, NARROWER),
)

CHECKS = (KEYS,)
