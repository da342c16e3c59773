"""What costs beside the plan's nodes: planning, JIT, triggers, sending, missing workers, settings. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from pgscale.core.finding import Finding, Remedy
from pgscale.core.units import format_bytes, format_count, format_duration
from pgscale.doctor.explain import ddl
from pgscale.doctor.explain.case import Case
from pgscale.doctor.explain.measuring import GATHERS
from pgscale.doctor.explain.thresholds import (
    LARGE_SHARE,
    LEAST_JIT_MS,
    LEAST_PLANNING_MS,
    LEAST_SERIALIZATION_MS,
    LEAST_TRIGGER_MS,
)


def judge(case: Case) -> Iterator[Finding]:
    """Report it."""
    yield from _settings(case)
    if not case.plan.is_measured:
        return
    yield from _planning(case)
    yield from _jit(case)
    yield from _triggers(case)
    yield from _sending(case)
    yield from _workers(case)


def _settings(case: Case) -> Iterator[Finding]:
    off = sorted(
        {name for name, value in case.plan.settings.items() if name.startswith("enable_") and value == "off"}
        | {
            name
            for name, each in case.known.settings.items()
            if name.startswith("enable_") and _is_turned_off(each.value, each.default_value)
        }
    )
    disabled = [f"#{node.number} {node.label}" for node in case.plan.nodes if "Disabled" in node.flags]
    if not off:
        return
    remedies = tuple(
        Remedy(
            text=ddl.reset_setting(
                name,
                case.known.settings[name].source if name in case.known.settings else "session",
                case.known.database,
                case.known.role,
            ),
            kind="setting",
            why="Takes it back where it was set.",
        )
        for name in off
    )
    yield case.find(
        "setting_off",
        None,
        f"{' and '.join(off)} {'is' if len(off) == 1 else 'are'} off.",
        severity="warning",
        evidence={
            "set_by": {name: case.known.settings[name].source for name in off if name in case.known.settings},
            "nodes_used_all_the_same": ", ".join(disabled) or None,
        },
        cost="The planner leaves out what such a setting names in every query, however good it would be: they are"
        " meant for"
        " trying.",
        remedies=remedies,
    )  # fmt: skip


def _is_turned_off(value: str, default: str | None) -> bool:
    return value == "off" and default == "on"


def _planning(case: Case) -> Iterator[Finding]:
    planning, execution = case.plan.planning_ms, case.plan.execution_ms
    if planning is None or execution is None or planning < LEAST_PLANNING_MS or planning <= execution:
        return
    relations = sum(node.relation is not None for node in case.plan.nodes)
    yield case.find(
        "planning",
        None,
        f"Planning took {format_duration(planning / 1000)}, and executing {format_duration(execution / 1000)}.",
        severity="info",
        evidence={"planning_s": planning / 1000, "execution_s": execution / 1000, "scans_in_plan": relations},
        cost="Each execution pays it, but for prepared ones with a generic plan. Many partitions, many joined"
        " tables and much"
        " detail in their statistics make it long: name the partition key in a condition; prepare the statement.",
    )


def _jit(case: Case) -> Iterator[Finding]:
    execution = case.plan.execution_ms or 0.0
    if case.plan.jit_ms < LEAST_JIT_MS or case.plan.jit_ms < LARGE_SHARE * execution:
        return
    yield case.find(
        "jit",
        None,
        f"Compiling (JIT) took {format_duration(case.plan.jit_ms / 1000)} of {format_duration(execution / 1000)}.",
        severity="warning",
        evidence={
            "jit_s": case.plan.jit_ms / 1000,
            "jit_share": case.plan.jit_ms / max(execution, 1e-9),
            "functions": case.plan.jit_functions,
            "cost": case.plan.root.expected.cost,
        },
        cost="It is begun where the plan's cost is above jit_above_cost (100,000), which a misjudged number of rows"
        " or many"
        " partitions make of a short query, too.",
        remedies=(
            Remedy(
                text=ddl.set_here("jit", "off"),
                kind="setting",
                why="For a session; ALTER ROLE … SET jit = off for an application of short queries.",
            ),
        ),
    )


def _triggers(case: Case) -> Iterator[Finding]:
    total = case.plan.execution_ms or case.measure.total
    for trigger in case.plan.triggers:
        if trigger.ms < LEAST_TRIGGER_MS or trigger.ms < LARGE_SHARE * total:
            continue
        key = next((each for each in case.known.foreign_keys if each.name == trigger.constraint), None)
        what = f"The foreign key {trigger.constraint}" if trigger.constraint else f"Trigger {trigger.name}"
        remedies: tuple[Remedy, ...] = ()
        cost = "A trigger runs for each row, or once a statement, within the statement."
        if key is not None and not key.is_indexed and not key.is_partitioned:
            table = ddl.ident(key.schema, key.table_name)
            cost = (
                f"No index begins with {', '.join(key.columns)} of {table}: all of it is read for each row that"
                " is deleted or whose key is changed."
            )
            text = ddl.create_index(table, [ddl.ident(each) for each in key.columns])
            remedies = (Remedy(text=text, why="Blocks no writer. The owner of the table may."),)
        yield case.find(
            "trigger",
            None,
            f"{what} took {format_duration(trigger.ms / 1000)} of {format_duration(total / 1000)},"
            f" in {format_count(trigger.calls, 'call')}.",
            severity="warning",
            evidence={
                "trigger": trigger.name or None,
                "constraint": trigger.constraint or None,
                "table": trigger.relation,
                "calls": trigger.calls,
                "time_s": trigger.ms / 1000,
                "time_share": trigger.ms / max(total, 1e-9),
            },
            cost=cost,
            remedies=remedies,
        )  # fmt: skip


def _sending(case: Case) -> Iterator[Finding]:
    took, execution = case.plan.serialization_ms, case.plan.execution_ms or 0.0
    if took is None or took < LEAST_SERIALIZATION_MS or took < LARGE_SHARE * execution:
        return
    yield case.find(
        "sending",
        None,
        f"Making {format_bytes(case.plan.serialized_bytes)} of rows ready to be sent took"
        f" {format_duration(took / 1000)}.",
        severity="info",
        evidence={"serialization_s": took / 1000, "sent_bytes": case.plan.serialized_bytes},
        cost="Large values are fetched from TOAST and decompressed only when they are sent: select the columns that"
        " are needed.",
    )


def _workers(case: Case) -> Iterator[Finding]:
    for node in case.plan.nodes:
        if node.kind not in GATHERS or not node.is_executed or node.actual is None:
            continue
        planned, launched = node.figures.get("Workers Planned", 0.0), node.figures.get("Workers Launched", 0.0)
        if launched >= planned:
            continue
        most, processes = case.known.setting("max_parallel_workers"), case.known.setting("max_worker_processes")
        yield case.find(
            "workers",
            node,
            f"Of {format_count(round(planned), 'parallel worker')} planned {launched:,.0f} could be had.",
            severity="warning",
            evidence={
                "workers_planned": round(planned), "workers_launched": round(launched), "max_parallel_workers": most,
                "max_worker_processes": processes,
            },
            cost="The plan was made for more processes; with fewer, another may be better. Workers are the"
            " server's, shared by"
            " all sessions.",
            remedies=(_more_workers(most, processes, planned),) if most is not None and processes is not None else (),
        )  # fmt: skip


def _more_workers(most: str, processes: str, planned: float) -> Remedy:
    if int(most) < planned:
        text = ddl.alter_workers(min(int(processes), max(2 * int(most), round(planned) * 2)))
        return Remedy(text=text, kind="setting", why="Their number for all sessions together; a reload is enough.")
    return Remedy(
        text=ddl.set_here("max_parallel_workers_per_gather", "0"),
        kind="setting",
        why="Others use them now. For many queries at a time plans without workers are better, in their sessions.",
    )
