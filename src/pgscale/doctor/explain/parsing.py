"""Read EXPLAIN (FORMAT JSON), of any version, also as psql and auto_explain write it. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import count
from typing import TypeAlias, cast

from pgscale.core.model import Json
from pgscale.doctor.explain.model import Actual, Expected, Node, Plan, Trigger, Worker
from pgscale.errors import UsageError

_Object: TypeAlias = "Mapping[str, Json]"

# psql ends the lines of a field that has several with a plus sign, and pads them.
_CONTINUED = re.compile(r"[ \t]*\+?[ \t]*$", re.MULTILINE)
# Python's limit of recursion is 1,000 frames, and a level needs several.
DEEPEST = 200
HOW = "Make it by EXPLAIN (ANALYZE, VERBOSE, BUFFERS, SETTINGS, FORMAT JSON) …;"


def read_plan(text: str, file: str) -> Plan:
    """Return the plan of a file.

    Args:
        file: its name, for messages.

    Raises:
        UsageError: there is no plan in JSON in it, or more than one.
    """
    starts = [at for at in (text.find("["), text.find("{")) if at >= 0]
    end = max(text.rfind("]"), text.rfind("}"))
    if not starts or end < 0:
        raise UsageError(f"{file} holds no plan in JSON.", hint=HOW)
    try:
        document = cast("Json", json.loads(_CONTINUED.sub("", text[min(starts) : end + 1])))
    except (ValueError, RecursionError):
        raise UsageError(f"{file} is not JSON as EXPLAIN writes it.", hint=HOW) from None
    return parse_plan(document, file)


def parse_plan(document: Json, file: str = "EXPLAIN") -> Plan:
    """Return the plan of a document of EXPLAIN (FORMAT JSON).

    Raises:
        UsageError: it is none.
    """
    if isinstance(document, list):
        if len(document) > 1:
            raise UsageError(
                f"{file} holds {len(document)} plans.", hint="A rule makes several of one query; give one of them."
            )
        document = document[0] if document else None
    whole = document if isinstance(document, dict) else {}
    root = whole.get("Plan")
    if not isinstance(root, dict):
        raise UsageError(f"{file} holds no plan: it has no key Plan.", hint=HOW)
    jit, serialization = _object(whole.get("JIT")), _object(whole.get("Serialization"))
    total = _object(jit.get("Timing")).get("Total")
    return Plan(
        root=_node(root, count(1), "", 0, file),
        planning_ms=_maybe(whole.get("Planning Time")),
        execution_ms=_maybe(whole.get("Execution Time", whole.get("Total Runtime"))),
        jit_ms=_maybe(total) or 0.0,
        jit_functions=int(_maybe(jit.get("Functions")) or 0),
        serialization_ms=_maybe(serialization.get("Time")),
        # EXPLAIN counts it in kB.
        serialized_bytes=int((_maybe(serialization.get("Output Volume")) or 0.0) * 1024),
        triggers=tuple(_triggers(whole.get("Triggers"))),
        settings={name: str(value) for name, value in _object(whole.get("Settings")).items()},
        query=str(whole.get("Query Text") or ""),
    )


def _node(raw: _Object, numbers: Iterator[int], relationship: str, depth: int, file: str) -> Node:
    if depth > DEEPEST:
        raise UsageError(f"{file} holds a plan of more than {DEEPEST} levels.", consequence="It is not read.")
    number = next(numbers)
    children = tuple(
        _node(child, numbers, str(child.get("Parent Relationship", "Outer")), depth + 1, file)
        for child in _objects(raw.get("Plans"))
    )
    figures, texts = _figures(raw), _texts(raw)
    return Node(
        number=number,
        kind=texts.pop("Node Type", "?"),
        relationship=relationship,
        expected=Expected(
            startup_cost=figures.pop("Startup Cost", 0.0),
            cost=figures.pop("Total Cost", 0.0),
            rows=figures.pop("Plan Rows", 0.0),
            width_bytes=int(figures.pop("Plan Width", 0.0)),
        ),
        actual=_actual(figures),
        figures=figures,
        texts=texts,
        lists={
            name: tuple(str(item) for item in value)
            for name, value in raw.items()
            if isinstance(value, list) and name not in ("Plans", "Workers")
        },
        flags=frozenset(name for name, value in raw.items() if value is True),
        workers=tuple(_worker(each) for each in _objects(raw.get("Workers"))),
        children=children,
    )


def _worker(raw: _Object) -> Worker:
    figures = _figures(raw)
    return Worker(
        number=int(figures.pop("Worker Number", 0.0)), actual=_actual(figures), figures=figures, texts=_texts(raw)
    )


def _actual(figures: dict[str, float]) -> Actual | None:
    """Take what was measured out of the figures."""
    figures.pop("Actual Startup Time", None)
    ms = figures.pop("Actual Total Time", None)
    rows, loops = figures.pop("Actual Rows", None), figures.pop("Actual Loops", None)
    return None if loops is None else Actual(ms=ms, rows=rows or 0.0, loops=loops)


def _triggers(raw: Json) -> Iterator[Trigger]:
    for each in _objects(raw):
        yield Trigger(
            name=str(each.get("Trigger Name") or ""),
            constraint=str(each.get("Constraint Name") or ""),
            relation=str(each.get("Relation") or ""),
            ms=_maybe(each.get("Time")) or 0.0,
            calls=int(_maybe(each.get("Calls")) or 0),
        )


def _figures(raw: _Object) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in raw.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _texts(raw: _Object) -> dict[str, str]:
    return {name: value for name, value in raw.items() if isinstance(value, str)}


def _objects(raw: Json) -> list[dict[str, Json]]:
    return [each for each in raw if isinstance(each, dict)] if isinstance(raw, list) else []


def _object(raw: Json) -> dict[str, Json]:
    return raw if isinstance(raw, dict) else {}


def _maybe(raw: Json) -> float | None:
    return float(raw) if isinstance(raw, (int, float)) and not isinstance(raw, bool) else None
