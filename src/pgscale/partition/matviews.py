"""Compose what carries materialized views over: they cannot be redirected, only made again. Pure.

Each is made again over the staged copy, in a schema that stands for its own: the staging schema for those beside
the table, one more schema for each other. So names never meet, and the swap is a change of schemas, as the table's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import LiteralString

from psycopg import sql

from pgscale.catalog.model import Function, Index, Matview, StatisticsObject, TableFacts, View
from pgscale.core.model import QName
from pgscale.livecopy.ddl import ident, names, qualified, text, trusted
from pgscale.partition import ddl
from pgscale.partition.model import MatviewPlaces

# A REFRESH of the application's runs with the settings of a session of its own, which ours has set otherwise: zones
# and formats get into what is computed, policies of other tables into what is seen. The planner's are the applier's.
AS_THE_APPLICATION: tuple[LiteralString, ...] = tuple(
    f"SET LOCAL {setting} TO DEFAULT"
    for setting in (
        "row_security",
        "search_path",
        "timezone",
        "datestyle",
        "intervalstyle",
        "extra_float_digits",
        "bytea_output",
        "xmloption",
        "jit",
        "enable_seqscan",
        "enable_hashjoin",
        "enable_mergejoin",
    )
)

# What the server's deparser prints: strings, quoted names, words, numbers, and everything else one by one.
_TOKEN = re.compile(r"""E'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|"(?:[^"]|"")*"|[^\W\d][\w$]*|\d[\w.]*|.""", re.DOTALL)


def _plain(token: str) -> str:
    return token[1:-1].replace('""', '"') if token.startswith('"') else token


def _mentions(tokens: list[str], relation: QName) -> Iterator[int]:
    """Yield where `schema.name` stands for the relation: not as a column (x.schema.name) nor a function (name())."""
    wanted = (relation.schema, ".", relation.name)
    around = ["", *tokens, ""]
    for at in range(len(tokens) - 2):
        if (_plain(tokens[at]), tokens[at + 1], _plain(tokens[at + 2])) != wanted:
            continue
        if around[at] != "." and around[at + 4] not in ("(", "."):
            yield at


def redirect(definition: str, targets: Mapping[QName, QName]) -> str:
    """Return a deparsed query, its names all qualified, with relations replaced by others."""
    tokens = _TOKEN.findall(definition.rstrip().rstrip(";"))
    for relation, target in targets.items():
        for at in tuple(_mentions(tokens, relation)):
            tokens[at : at + 3] = [text(qualified(target)), "", ""]
    return "".join(tokens)


def reads_only(definition: str, relation: QName) -> bool:
    """Tell whether a deparsed query reads FROM ONLY the relation: of a partitioned table that is nothing."""
    tokens = _TOKEN.findall(definition)
    return any("".join(tokens[:at]).rstrip().endswith(" ONLY") for at in _mentions(tokens, relation))


class Matviews:
    """All statements around the materialized views of one table.

    Args:
        facts: the table as it is now.
        stage: the staged copy; retained: where the old table is kept.
    """

    def __init__(self, facts: TableFacts, stage: QName, retained: QName) -> None:
        self.facts = facts
        self.stage = stage
        others = sorted({m.relation.schema for m in facts.matviews} - {facts.table.schema})
        self._new = {facts.table.schema: stage.schema}
        self._old = {facts.table.schema: retained.schema}
        for number, schema in enumerate(others, 1):
            self._new[schema] = f"{stage.schema}_{number}"
            self._old[schema] = f"{retained.schema}_{number}"
        self._more_schemas = tuple(s for known in (self._new, self._old) for s in tuple(known.values())[1:])
        self.places = tuple(
            MatviewPlaces(
                live=m.qname,
                staged=QName(schema=self._new[m.relation.schema], name=m.relation.name),
                retained=QName(schema=self._old[m.relation.schema], name=m.relation.name),
            )
            for m in facts.matviews
        )

    def redirected_views(self) -> tuple[View, ...]:
        """Return the plain views that read the table or a materialized view of it."""
        read = (*self.facts.views, *(v for m in self.facts.matviews for v in m.dependents))
        return tuple({v.oid: v for v in read if v.kind != "m"}.values())

    def redirected_functions(self) -> tuple[Function, ...]:
        read = (*self.facts.functions, *(f for m in self.facts.matviews for f in m.functions))
        return tuple({f.oid: f for f in read}.values())

    def create(self) -> tuple[str, ...]:
        """Return what makes them again over the staged copy, without rows: with everything that hangs on them."""
        targets = {self.facts.table.qname: self.stage, **{p.live: p.staged for p in self.places}}
        schemas = tuple(s for schema in self._more_schemas for s in ddl.make_schema(self.facts, schema))
        made = (
            statement
            for matview, place in zip(self.facts.matviews, self.places, strict=True)
            for statement in self._create(matview, place.staged, targets)
        )
        return (*schemas, *made)

    def _create(self, matview: Matview, name: QName, targets: Mapping[QName, QName]) -> Iterator[str]:
        relation = matview.relation
        yield text(
            sql.SQL("CREATE MATERIALIZED VIEW {} ({}){}{}{} AS {} WITH NO DATA").format(
                qualified(name),
                names(matview.view.columns),
                sql.SQL(" USING {}").format(ident(relation.access_method)) if relation.access_method else sql.SQL(""),
                ddl.storage_options(relation),
                sql.SQL(" TABLESPACE {}").format(ident(relation.tablespace)) if relation.tablespace else sql.SQL(""),
                trusted(redirect(matview.view.definition, targets)),
            )
        )
        yield from ddl.revokes(self.facts, name)
        gives_away = relation.owner != self.facts.table.owner
        if gives_away:
            # A new owner must be allowed to create in the schema, for this moment only.
            yield self._create_right(name.schema, relation.owner, give=True)
            yield _owner("MATERIALIZED VIEW", name, relation.owner)
        for column in matview.columns:
            yield from ddl.column_settings(column, name)
        for index in matview.indexes:
            yield from _index(index, name)
        for statistics in matview.statistics:
            yield from _statistics(statistics, name, relation.owner if gives_away else None)
        if gives_away:
            yield self._create_right(name.schema, relation.owner, give=False)
        if relation.replica_identity in ("f", "n"):
            word = "FULL" if relation.replica_identity == "f" else "NOTHING"
            yield ddl.alter(name, sql.SQL("REPLICA IDENTITY {}").format(trusted(word)))
        if relation.comment is not None:
            yield ddl.comment_on(sql.SQL("MATERIALIZED VIEW {}").format(qualified(name)), relation.comment)
        yield from ddl.column_comments(matview.columns, name)
        yield from ddl.grants(relation, matview.grants, name)

    def _create_right(self, schema: str, role: str, *, give: bool) -> str:
        words = ("GRANT", "TO") if give else ("REVOKE", "FROM")
        return text(
            sql.SQL("{} CREATE ON SCHEMA {} {} {}").format(
                trusted(words[0]), ident(schema), trusted(words[1]), ident(role)
            )
        )

    def locks(self) -> Iterator[str]:
        """Yield statements that take ACCESS EXCLUSIVE on what the swap touches: LOCK TABLE takes no such view."""
        for place, matview in zip(self.places, self.facts.matviews, strict=True):
            yield _owner("MATERIALIZED VIEW", place.live, matview.relation.owner)
        views = {v.oid: v for m in self.facts.matviews for v in m.dependents if v.kind == "v"}
        for view in views.values():
            yield _owner("VIEW", QName(schema=view.schema, name=view.name), view.owner)

    def exchange(self, *, forward: bool) -> Iterator[str]:
        """Yield the swap: the present ones away, the others in; their statistics objects follow."""
        for matview, place in zip(self.facts.matviews, self.places, strict=True):
            away, come = (place.retained, place.staged) if forward else (place.staged, place.retained)
            yield _move(place.live, away.schema)
            yield _move(come, place.live.schema)
            for statistics in matview.statistics:
                yield _move_statistics(place.live.schema, statistics.name, away.schema)
                yield _move_statistics(come.schema, statistics.name, place.live.schema)

    def drop_staged(self) -> Iterator[str]:
        yield from (_drop(place.staged) for place in reversed(self.places))

    def drop_retained(self) -> Iterator[str]:
        yield from (_drop(place.retained) for place in reversed(self.places))

    def drop_schemas(self) -> Iterator[str]:
        for schema in self._more_schemas:
            yield text(sql.SQL("DROP SCHEMA IF EXISTS {}").format(ident(schema)))


def refresh(name: QName, *, with_data: bool) -> str:
    """Return the statement that computes a materialized view, or empties it. ACCESS EXCLUSIVE on it."""
    tail = sql.SQL("" if with_data else " WITH NO DATA")
    return text(sql.SQL("REFRESH MATERIALIZED VIEW {}{}").format(qualified(name), tail))


def analyze(name: QName) -> str:
    return text(sql.SQL("ANALYZE {}").format(qualified(name)))


def _owner(kind: LiteralString, name: QName, role: str) -> str:
    return text(sql.SQL("ALTER {} {} OWNER TO {}").format(sql.SQL(kind), qualified(name), ident(role)))


def _move(name: QName, schema: str) -> str:
    return text(sql.SQL("ALTER MATERIALIZED VIEW {} SET SCHEMA {}").format(qualified(name), ident(schema)))


def _move_statistics(schema: str, name: str, to: str) -> str:
    return text(sql.SQL("ALTER STATISTICS {} SET SCHEMA {}").format(sql.Identifier(schema, name), ident(to)))


def _drop(name: QName) -> str:
    return text(sql.SQL("DROP MATERIALIZED VIEW IF EXISTS {}").format(qualified(name)))


def _index(index: Index, on: QName) -> Iterator[str]:
    name = QName(schema=on.schema, name=index.name)
    yield text(
        sql.SQL("CREATE {}INDEX {} ON {} {}").format(
            sql.SQL("UNIQUE " if index.is_unique else ""),
            ident(index.name),
            qualified(on),
            trusted(ddl.index_tail(index)),
        )
    )
    yield from ddl.index_targets(index, name)
    if index.comment is not None:
        yield ddl.comment_on(sql.SQL("INDEX {}").format(qualified(name)), index.comment)
    if index.is_clustered:
        yield ddl.alter(on, sql.SQL("CLUSTER ON {}").format(ident(index.name)))
    if index.is_replica_identity:
        yield ddl.alter(on, sql.SQL("REPLICA IDENTITY USING INDEX {}").format(ident(index.name)))


def _statistics(statistics: StatisticsObject, on: QName, owner: str | None) -> Iterator[str]:
    yield from ddl.statistics_statements(statistics, on)
    if owner is not None:
        yield _owner("STATISTICS", QName(schema=on.schema, name=statistics.name), owner)
