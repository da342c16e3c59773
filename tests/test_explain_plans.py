"""Plans that no server made here: how they are read, where their time goes, and what is said of what is rare."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgscale.doctor.explain.conditions import read_terms
from pgscale.doctor.explain.measuring import measure
from pgscale.doctor.explain.parsing import parse_plan
from pgscale.doctor.explain.statement import read_query
from pgscale.errors import UsageError
from support.cli import pgscale

Raw = dict[str, Any]


def node(kind: str, ms: float | None = None, *children: Raw, loops: float = 1, rows: float = 1, **more: Any) -> Raw:
    """A node as EXPLAIN writes it; `ms` is its own, of all loops, and what it then has contains its children's."""
    whole = (ms or 0.0) + sum(c.get("Actual Total Time", 0) * c.get("Actual Loops", 0) for c in children)
    measured = (
        {} if ms is None else {"Actual Total Time": whole / max(loops, 1), "Actual Rows": rows, "Actual Loops": loops}
    )
    return {
        "Node Type": kind, "Parent Relationship": "Outer", "Startup Cost": 0.0, "Total Cost": 10.0, "Plan Rows": rows,
        "Plan Width": 8, **measured, **more, "Plans": list(children),
    }  # fmt: skip


def own(root: Raw) -> list[float]:
    """Each node's own time, in EXPLAIN's order."""
    measured = measure(parse_plan([{"Plan": root}]))
    return [round(measured.own[number], 3) for number in sorted(measured.own)]


def trees() -> st.SearchStrategy[Raw]:
    ms, loops = st.integers(0, 1000).map(float), st.sampled_from([1, 2, 10, 1000])
    leaf = st.builds(lambda m, n: node("Seq Scan", m, loops=n), ms, loops)

    def append(below: st.SearchStrategy[Raw]) -> st.SearchStrategy[Raw]:
        return st.builds(lambda m, n, c: node("Append", m, *c, loops=n), ms, loops, st.lists(below, max_size=3))

    return st.recursive(leaf, append, max_leaves=12)


def _own_given(root: Raw) -> list[float]:
    whole = root["Actual Total Time"] * root["Actual Loops"]
    below = sum(each["Actual Total Time"] * each["Actual Loops"] for each in root["Plans"])
    return [round(whole - below, 3), *(own for each in root["Plans"] for own in _own_given(each))]


@given(trees())
def test_own_times_are_those_that_were_put_in(root):
    found = own(root)
    assert found == pytest.approx(_own_given(root), abs=0.01)
    assert sum(found) == pytest.approx(root["Actual Total Time"] * root["Actual Loops"], abs=0.1)


@given(trees(), st.integers(0, 2000))
def test_a_cte_is_taken_out_of_those_that_scan_it(root, split):
    cte = {**root, "Parent Relationship": "InitPlan", "Subplan Name": "CTE x"}
    whole = root["Actual Total Time"] * root["Actual Loops"]
    first = min(whole, float(split))
    # What the CTE takes is contained in the scans that pull it, each its part.
    scans = [
        node("CTE Scan", part + 5.0, rows=3, **{"CTE Name": "x", "Alias": f"x{at}"})
        for at, part in enumerate((first, whole - first))
    ]
    top = node("Append", 7.0, *scans)
    top["Plans"].insert(0, cte)
    found = own(top)
    assert found[0] == pytest.approx(7)
    assert sum(found) == pytest.approx(whole + 17, abs=0.1)
    assert sum(found[-2:]) == pytest.approx(10, abs=0.1)


def test_whoever_asks_for_an_init_plan_waits_for_it():
    # 16 and 17 name it differently; it hangs at the sort and is asked for by the scan.
    for name, condition in (("InitPlan 1 (returns $0)", "(t.a > $0)"), ("InitPlan 1", "(t.a > (InitPlan 1).col1)")):
        init = node("Aggregate", 90.0, **{"Parent Relationship": "InitPlan", "Subplan Name": name})
        scan = node("Seq Scan", 100.0, Filter=condition)
        sort = node("Sort", 4.0, scan)
        sort["Plans"].insert(0, init)
        assert own(sort) == [4, 90, 10]
        # $0 is not $01, and who does not ask is not charged: then it is the one it hangs at.
        scan["Filter"] = "(t.a > $01)"
        sort["Actual Total Time"] += 90
        assert own(sort) == [4, 90, 100]


def test_processes_of_a_gather_run_at_the_same_time():
    def workers(*ms: float) -> list[Raw]:
        return [
            {"Worker Number": n, "Actual Total Time": each, "Actual Rows": 1, "Actual Loops": 1}
            for n, each in enumerate(ms)
        ]

    scan = node("Seq Scan", 300.0, loops=3, **{"Parallel Aware": True})
    gather = node("Gather", 0.0, scan, **{"Workers Planned": 2, "Workers Launched": 2})
    gather["Actual Total Time"] = 120.0
    assert own(gather) == [20, 100]
    # Told apart, the one that took longest counts: the leader, of 300 - 30 - 40.
    scan["Workers"] = workers(30, 40)
    gather["Actual Total Time"] = 240.0
    assert own(gather) == [10, 230]
    # One process makes the bitmap, and another was the longest: its time is not divided, nor lost.
    bitmap = node("Bitmap Index Scan", 50.0)
    heap = node("Bitmap Heap Scan", 250.0, bitmap, loops=3, Workers=workers(150, 90))
    gather = node("Gather", 0.0, heap)
    gather["Actual Total Time"] = 155.0
    assert own(gather) == [5, 100, 50]


def test_what_never_ran_and_what_was_not_timed_took_nothing():
    never = node("Seq Scan", 0.0, loops=0)
    never["Actual Loops"] = 0
    assert own(node("Append", 5.0, never)) == [5, 0]
    untimed = parse_plan({"Plan": {"Node Type": "Result", "Total Cost": 2.5, "Actual Rows": 3, "Actual Loops": 1}})
    assert (untimed.is_measured, measure(untimed).is_time, measure(untimed).total) == (True, False, 2.5)


def test_costs_below_a_limit_and_of_inner_sides_are_those_that_are_reached():
    scan = node("Seq Scan", **{"Total Cost": 1000.0})
    limit = measure(parse_plan({"Plan": node("Limit", None, scan, **{"Total Cost": 10.0})}))
    assert (limit.own, limit.total) == ({1: 0.0, 2: 10.0}, 10.0)
    loop = node(
        "Nested Loop", None, node("Seq Scan", **{"Total Cost": 20.0}, rows=50),
        node("Index Scan", **{"Total Cost": 1.5, "Parent Relationship": "Inner"}), **{"Total Cost": 100.0},
    )  # fmt: skip
    assert measure(parse_plan({"Plan": loop})).own == {1: 5.0, 2: 20.0, 3: 75.0}


TERMS = {
    "(t.a = 1)": [("equal", "a", "a")],
    "((t.a = ANY ('{1,2}'::integer[])) AND (t.b >= 5) AND (t.b < $1))": [
        ("equal", "a", "a"), ("range", "b", "b"), ("range", "b", "b"),
    ],
    "((t.\"Strange . Name\" IS NULL) AND t.flag AND (NOT t.gone))": [
        ("null", "Strange . Name", '"Strange . Name"'), ("boolean", "flag", "flag"), ("boolean", "gone", "gone"),
    ],
    "(5 > t.a)": [("range", "a", "a")],
    "(lower((t.email)::text) = 'x AND (y'::text)": [("equal", None, "lower((email)::text)")],
    "((t.made)::date = '2024-01-01'::date)": [("equal", "made", "(made)::date")],
    "((t.name)::text ~~ 'ab%'::text)": [("prefix", "name", "(name)::text")],
    "(t.name ~~ '%ab'::text)": [("pattern", "name", "name")],
    "(t.doc @> '{\"a\": 1}'::jsonb)": [("contains", "doc", "doc")],
    "((t.a = 1) OR (t.b = 2))": [("other", None, "")],
    "(t.a <> 1)": [("other", "a", "a")],
    "(t.a = o.a)": [("equal", "a", "a")],
    "(t.made > (now() - '7 days'::interval))": [("range", "made", "made")],
    "(ANY (t.a = (hashed SubPlan 1).col1))": [("other", None, "")],
    "(status = 'open'::text)": [("equal", "status", "status")],
    "((a + b) > 3)": [("range", None, "a + b")],
}  # fmt: skip


@pytest.mark.parametrize("condition", TERMS)
def test_conditions_are_taken_apart(condition):
    terms = read_terms(condition, "t")
    assert [(term.kind, term.column, term.expression) for term in terms] == TERMS[condition]
    assert all(term.is_served for term in terms if term.kind != "other")


def test_what_an_index_cannot_serve_is_known():
    assert not read_terms("(t.a = t.b)", "t")[0].is_served
    assert not read_terms("(a = b)", "t")[0].is_served
    assert read_terms("(t.a = 1", "t")[0].kind == "other"
    assert read_terms("(t.a = 'open)", "t") == ()
    (term,) = read_terms("((t.id)::numeric = 5.0)", "t")
    assert (term.casts, term.functions, term.columns) == ((("id", "numeric"),), (), frozenset({"id"}))
    (term,) = read_terms("(date_trunc('day'::text, (t.made)::timestamp without time zone) = $1)", "t")
    assert (term.casts, term.functions) == ((("made", "timestamp without time zone"),), ("date_trunc",))
    assert read_terms("(t.made < '2024-01-01 00:00:00'::timestamp without time zone)", "t")[0].columns == {"made"}


def test_only_one_statement_with_a_plan_is_taken():
    assert read_query("/*+ hint */ (SELECT $2, '$9', $1);", "q").parameters == 2
    assert read_query("with a as (select 1) table a", "q").text == "with a as (select 1) table a"
    assert read_query("MERGE INTO t USING s ON true WHEN MATCHED THEN DELETE", "q").is_writing
    for text, words in (
        ("", "no statement"),
        ("-- nothing", "no statement"),
        ("SELECT 1;\nSELECT 2", "2 statements in q (lines 1, 2)"),
        ("EXPLAIN SELECT 1", "Leave EXPLAIN and its options out"),
        ("VACUUM t", "VACUUM has no plan"),
        ("SELECT 'x", "does not end"),
        ("42 things", "Q is no statement"),
    ):
        with pytest.raises(UsageError) as caught:
            read_query(text, "q")
        assert words in str(caught.value), (text, caught.value)


# Whole plans


def _read(tmp_path: Path, document: object, *arguments: str) -> dict[str, Any]:
    file = tmp_path / "plan.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    ran = pgscale("explain", "--file", str(file), "--json", *arguments)
    assert ran.exit_code in (0, 1), ran.err
    said = json.loads(ran.out)
    assert ran.exit_code == (said["worst"] in ("warning", "critical"))
    return said


def _checks(said: dict[str, Any]) -> list[str]:
    return [finding["check"] for finding in said["findings"]]


@pytest.mark.parametrize(
    ("found", "changes", "no_longer"),
    [
        (
            "jit",
            {"JIT": {"Functions": 9, "Timing": {"Total": 400.0}}},
            {"JIT": {"Functions": 9, "Timing": {"Total": 4.0}}},
        ),
        ("planning", {"Planning Time": 1500.0}, {"Planning Time": 900.0}),
        ("sending", {"Serialization": {"Time": 300.0, "Output Volume": 9000}}, {"Serialization": {"Time": 10.0}}),
        (
            "trigger",
            {"Triggers": [{"Trigger Name": "audit", "Relation": "t", "Time": 700.0, "Calls": 5}]},
            {"Triggers": [{"Trigger Name": "audit", "Relation": "t", "Time": 3.0, "Calls": 5}]},
        ),
        (
            "setting_off",
            {"Settings": {"enable_hashjoin": "off"}},
            {"Settings": {"enable_hashjoin": "on", "jit": "off"}},
        ),
    ],
)
def test_what_costs_beside_the_nodes(found, changes, no_longer, tmp_path):
    document = {"Plan": node("Seq Scan", 990.0, rows=10), "Planning Time": 1.0, "Execution Time": 1000.0}
    assert _checks(_read(tmp_path, [document | changes])) == [f"explain.{found}"]
    assert _checks(_read(tmp_path, [document | no_longer])) == []


def test_a_foreign_scan_that_filters_here(tmp_path):
    scan = node(
        "Foreign Scan", 500.0, rows=10,
        **{"Relation Name": "far", "Alias": "far", "Filter": "(f(a) = 1)", "Rows Removed by Filter": 50_000},
    )  # fmt: skip
    said = _read(tmp_path, {"Plan": scan})
    assert _checks(said) == ["explain.foreign_filter"]
    assert "50,010 rows of foreign table far were fetched, and 10" in said["findings"][0]["fact"]
    scan["Rows Removed by Filter"] = 50
    assert _checks(_read(tmp_path, {"Plan": scan})) == []


def test_fewer_rows_than_expected_mean_something_only_where_all_were_asked_for(tmp_path):
    def checks(*above: str) -> list[str]:
        made = node("Seq Scan", 50.0, rows=10, **{"Relation Name": "t", "Alias": "t", "Plan Rows": 90_000})
        for kind in above:
            strategy = {"Strategy": "Hashed"} if kind == "Aggregate" else {}
            made = node(kind, 1.0, made, rows=10, **strategy)
        return _checks(_read(tmp_path, {"Plan": made}))

    assert checks() == ["explain.misestimate"]
    assert checks("Limit") == checks("Gather", "Limit") == []
    assert checks("Sort", "Limit") == checks("Aggregate", "Limit") == ["explain.misestimate"]


def test_rounds_of_a_recursion_are_not_judged_one_by_one(tmp_path):
    rounds = node("WorkTable Scan", 5.0, loops=3000, rows=100, **{"Plan Rows": 1})
    union = node("Recursive Union", 1.0, rows=9_000, **{"Plan Rows": 31, "Parent Relationship": "InitPlan"})
    union |= {"Subplan Name": "CTE r", "Plans": [rounds]}
    top = node("CTE Scan", 9.0, rows=9_000, **{"Plan Rows": 31, "CTE Name": "r"})
    top["Plans"] = [union]
    (finding,) = _read(tmp_path, {"Plan": top})["findings"]
    assert (finding["subject"], finding["severity"], finding["remedies"]) == ("#1 CTE Scan on r", "info", [])


def test_a_file_as_psql_and_auto_explain_write_it(tmp_path, monkeypatch):
    scan = node(
        "Seq Scan", 800.0, rows=3,
        **{"Relation Name": "orders", "Schema": "shop", "Alias": "o", "Filter": "(lower(o.email) = 'x'::text)",
           "Rows Removed by Filter": 90_000},
    )  # fmt: skip
    lines = json.dumps([{"Plan": scan, "Execution Time": 801.0}], indent=2).splitlines()
    wide = max(len(line) for line in lines) + 1
    printed = "\n".join(f" {line:<{wide}}+" for line in lines).removesuffix("+")
    said = _read(tmp_path, f"   QUERY PLAN\n{'-' * wide}\n{printed}\n(1 row)\n")
    (finding,) = said["findings"]
    assert finding["remedies"][0]["text"] == 'CREATE INDEX CONCURRENTLY ON "shop"."orders" ((lower(email)));'
    assert "If there is no such index yet" in finding["remedies"][0]["why"]
    logged = json.dumps({"Query Text": "SELECT 1", "Plan": scan})
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(logged.encode())))
    ran = pgscale("explain", "--file", "-")
    assert ran.exit_code == 1, ran.err
    assert ran.out.splitlines()[0] == "SELECT 1"
    assert "Seq Scan on shop.orders o" in ran.out
    assert "! explain.seq_scan at #1: " in ran.out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SELECT 1", "no plan in JSON"),
        ('{"a": ', "no plan in JSON"),
        ("[1, }", "is not JSON"),
        ("[]", "has no key Plan"),
        ('[{"Plan": {}}, {"Plan": {}}]', "2 plans"),
        ('{"Plan":' + '{"Plans":[' * 250 + "]}" * 250 + "}", "more than 200 levels"),
        ("[" * 100_000 + "]" * 100_000, "is not JSON"),
    ],
)
def test_files_that_are_no_plan(text, words, tmp_path):
    file = tmp_path / "plan.json"
    file.write_text(text)
    ran = pgscale("explain", "--file", str(file))
    assert (ran.exit_code, words in ran.err, ran.err.count("\n")) == (2, True, 1), ran.err


def test_calls_that_make_no_sense():
    for arguments, words in (
        ((), "Give a QUERY"),
        (("--file", "x.json", "SELECT 1"), "asks no server"),
        (("--file", "nowhere.json"), "nowhere.json cannot be read"),
        (("nowhere.sql",), "nowhere.sql cannot be read"),
        (("SELECT 1", "--write"), "goes with --analyze only"),
        (("SELECT 1; SELECT 2",), "2 statements in the query"),
    ):
        ran = pgscale("explain", *arguments)
        assert (ran.exit_code, words in ran.err) == (2, True), ran.err


def test_what_18_says_is_kept_on_disk(tmp_path):
    scan = node("CTE Scan", 5.0, rows=900, **{"CTE Name": "x", "Storage": "Disk", "Maximum Storage": 5000})
    (finding,) = _read(tmp_path, {"Plan": scan, "Settings": {"work_mem": "1MB"}})["findings"]
    assert (finding["check"], finding["evidence"]["work_mem_bytes"]) == ("explain.store_spill", 1 << 20)
    assert finding["remedies"][0]["text"] == "SET work_mem = '7MB';"
    scan["Storage"] = "Memory"
    assert _checks(_read(tmp_path, {"Plan": scan})) == []
