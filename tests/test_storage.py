"""Token buckets, the words of --storage, and ranges that hold the truth. No server."""

from __future__ import annotations

import math
import random
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgscale.cli.progress import describe
from pgscale.core.model import Progress
from pgscale.core.storage import Bucket, Storage, total_s
from pgscale.errors import UsageError
from pgscale.livecopy.rate import Outlook, Rate, Traffic
from pgscale.partition import Options
from pgscale.partition.estimate import MeasuredCopy, estimate_sizes
from pgscale.partition.throughput import Sizes
from pgscale.partition.volumes import GIB, KINDS, MIB, parse_storage

TOOLS = Path(__file__).resolve().parent.parent / "tools"
sys.path.insert(0, str(TOOLS))

from estimates import paper, simulation  # noqa: E402 because the path is set first

# --- token buckets ----------------------------------------------------------------------------------------


@st.composite
def buckets(draw: st.DrawFn) -> Bucket:
    unit = draw(st.sampled_from(["io", "bytes"]))
    scale = 1.0 if unit == "io" else 8192.0
    baseline = draw(st.floats(10, 10_000)) * scale
    burst = baseline * draw(st.floats(1, 30))
    credit = draw(st.one_of(st.just(0.0), st.floats(1, 1e7))) * scale
    return Bucket(unit=unit, baseline=baseline, burst=burst, credit=credit)


storages = st.lists(buckets(), min_size=1, max_size=4).map(lambda b: Storage(name="s", buckets=tuple(b)))
amounts = st.floats(1, 1e13)
demands = st.one_of(st.just(math.inf), st.floats(1e4, 1e10))
io_sizes = st.sampled_from([8192.0, 16384.0, 131072.0])


def _seconds(storage: Storage, amount: float, io_bytes: float, demand: float) -> float:
    moved, _ = storage.move(amount, io_bytes=io_bytes, credits=storage.full(), demand_bytes_per_s=demand)
    return total_s(moved)


@settings(deadline=None)
@given(storages, amounts, io_sizes, demands)
def test_never_faster_than_the_burst_and_never_slower_than_the_baseline(storage, amount, io_bytes, demand):
    seconds = _seconds(storage, amount, io_bytes, demand)
    fastest = min(demand, *(b.burst * b.bytes_per_unit(io_bytes) for b in storage.buckets))
    slowest = min(demand, *(b.baseline * b.bytes_per_unit(io_bytes) for b in storage.buckets))
    assert amount / fastest * (1 - 1e-9) <= seconds <= amount / slowest * (1 + 1e-9)


@settings(deadline=None)
@given(storages, amounts, amounts, io_sizes, demands)
def test_more_bytes_take_longer_and_two_parts_take_as_long_as_the_whole(storage, first, second, io_bytes, demand):
    whole = _seconds(storage, first + second, io_bytes, demand)
    assert whole > _seconds(storage, first, io_bytes, demand)
    one, credits = storage.move(first, io_bytes=io_bytes, credits=storage.full(), demand_bytes_per_s=demand)
    two, _ = storage.move(second, io_bytes=io_bytes, credits=credits, demand_bytes_per_s=demand)
    assert total_s(one) + total_s(two) == pytest.approx(whole, rel=1e-6)


@settings(deadline=None)
@given(storages, amounts, io_sizes, demands)
def test_rates_only_fall_and_no_bucket_gives_more_than_it_has(storage, amount, io_bytes, demand):
    moved, credits = storage.move(amount, io_bytes=io_bytes, credits=storage.full(), demand_bytes_per_s=demand)
    rates = [s.bytes_per_s for s in moved]
    assert all(after <= before * (1 + 1e-9) for before, after in pairwise(rates))
    assert sum(s.bytes_per_s * s.seconds for s in moved) == pytest.approx(amount, rel=1e-6)
    for bucket, left in zip(storage.buckets, credits, strict=True):
        units = amount / bucket.bytes_per_unit(io_bytes)
        assert 0 <= left <= bucket.credit
        assert units <= bucket.baseline * total_s(moved) + bucket.credit - left + units * 1e-6 + 1


@settings(deadline=None, max_examples=40)
@given(storages, amounts, io_sizes)
def test_the_closed_form_agrees_with_small_steps(storage, amount, io_bytes):
    """An integration that knows nothing of events: a step at a time, each at the rate of its beginning."""
    amount = min(amount, 2_000 * storage.bytes_per_s(storage.empty(), io_bytes))
    expected = _seconds(storage, amount, io_bytes, math.inf)
    step = expected / 4_000
    credits, moved, at = [b.credit for b in storage.buckets], 0.0, 0.0
    while moved < amount:
        limits = []
        for bucket, credit in zip(storage.buckets, credits, strict=True):
            spendable = min(bucket.burst, bucket.baseline + credit / step)
            limits.append(spendable * bucket.bytes_per_unit(io_bytes))
        rate = min(limits)
        for number, bucket in enumerate(storage.buckets):
            spent = rate / bucket.bytes_per_unit(io_bytes) - bucket.baseline
            credits[number] = min(bucket.credit, max(0.0, credits[number] - spent * step))
        moved, at = moved + rate * step, at + step
    assert at == pytest.approx(expected, rel=5e-3)


def test_a_rest_brings_credit_back() -> None:
    storage = Storage(name="s", buckets=(Bucket(unit="io", baseline=100, burst=3000, credit=5_400_000),))
    assert storage.spend(storage.empty(), 0.0, 54_000, 8192) == storage.full()
    assert storage.spend(storage.empty(), 0.0, 540, 8192) == (54_000,)


@pytest.mark.parametrize("made", [{"baseline": 0.0, "burst": 1.0}, {"baseline": 2.0, "burst": 1.0}])
def test_a_bucket_that_cannot_be_is_refused(made: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Bucket(unit="io", **made)


# --- the words of --storage -------------------------------------------------------------------------------


def _parsed(text: str) -> Storage:
    storage = parse_storage(text)
    assert storage is not None
    return storage


@pytest.mark.parametrize(
    ("gib", "baseline", "seconds"),
    # The documentation's own table: volume, baseline, burst duration.
    [(10, 100, 1_862), (100, 300, 2_000), (334, 1_002, 2_703), (750, 2_250, 7_200)],
)
def test_gp2_bursts_as_long_as_its_documentation_says(gib: int, baseline: int, seconds: int) -> None:
    storage = _parsed(f"gp2:{gib}GB")
    assert storage.buckets[0].baseline == baseline
    # Small enough for its IOPS to be what limits.
    first = storage.move(1e13, io_bytes=8192, credits=storage.full())[0][0]
    assert first.bytes_per_s == 3_000 * 8192
    assert first.seconds == pytest.approx(seconds, rel=0.001)


def test_presets_give_what_is_documented() -> None:
    assert _parsed("gp2:1000GB").buckets[0].credit == 0
    assert _parsed("gp2:16TB").buckets[0].baseline == 16_000
    assert [b.baseline for b in _parsed("gp3").buckets] == [3_000, 125 * MIB]
    assert [b.baseline for b in _parsed("gp3:iops=6000,throughput=500MB").buckets] == [6_000, 500 * MIB]
    assert _parsed("io1:iops=48000").buckets[1].baseline == 750 * MIB
    assert _parsed("io2-block-express:iops=16000").buckets[1].baseline == pytest.approx(4_000 * MIB, rel=0.03)
    st1 = _parsed("st1:1TB").buckets[0]
    assert (st1.baseline, st1.burst, st1.credit) == (40 * MIB, 250 * MIB, 1024 * GIB)
    assert _parsed("st1:13TB").buckets[0].credit == 0
    p20 = _parsed("azure-p20").buckets
    assert [(b.baseline, b.burst, b.credit / (b.burst - b.baseline)) for b in p20] == [
        (2_300, 3_500, 1_800),
        (150e6, 170e6, 1_800),
    ]
    assert [b.credit for b in _parsed("azure-p30").buckets] == [0, 0]
    assert _parsed("pd-ssd:100GB").buckets[0].baseline == 3_000
    m5 = _parsed("gp3:iops=12000,throughput=500MB,instance=db.m5.large").buckets[2:]
    assert [(b.of, b.baseline, b.burst) for b in m5] == [
        ("the instance", 3_600, 18_750),
        ("the instance", 81.25e6, 593.75e6),
    ]
    assert [b.credit / (b.burst - b.baseline) for b in m5] == [1_800, 1_800]
    own = _parsed("baseline=1500,burst=3000,credit=5400000,throughput=250MB").buckets
    assert [(b.unit, b.baseline, b.burst, b.credit) for b in own] == [
        ("io", 1_500, 3_000, 5_400_000),
        ("bytes", 250 * MIB, 250 * MIB, 0),
    ]
    used = _parsed("gp2:500GB,used=1160").buckets[0]
    assert (used.baseline, used.burst, used.credit) == (340, 1_840, 5_400_000)
    assert _parsed("gp3:io=32kB").least_io_bytes == _parsed("gp3:io=32kB").most_io_bytes == 32 * 1024
    assert parse_storage("measured") is None


def test_every_kind_can_be_described() -> None:
    for kind in KINDS:
        rest = "iops=5000" if kind.startswith("io") else "" if kind.startswith("azure") else "size=1TB"
        assert _parsed(f"{kind}:{rest}").buckets


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gp9:1TB", "no storage 'gp9'"),
        ("gp2", "needs its size"),
        ("io1", "needs its iops"),
        ("gp2:500", "size is '500'"),
        ("gp2:500GB,iops=3", "takes no 'iops'"),
        ("gp2:500GB,size=1TB", "'size' twice"),
        ("gp3:iops=0", "more than nothing"),
        ("gp3:iops=many", "write a number"),
        ("gp2:500GB,used=1500", "leave nothing of the volume's 1,500"),
        ("gp3:instance=z9.large", "instance 'z9.large' are not known"),
        ("baseline=100,burst=3000", "needs its credit"),
        ("baseline=3000,burst=100,credit=1", "do not fit"),
        ("burst=100", "a baseline, a throughput, or both"),
        ("", "There is no storage|a baseline"),
    ],
)
def test_what_is_no_storage_is_a_usage_error(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Options(by="hash:id", partitions=2, storage=text)


# --- the estimate -----------------------------------------------------------------------------------------

SIZES = Sizes(rows=4_000_000_000, heap_bytes=10**12, index_bytes=250 * 10**9, indexes=2)


def _fast(storage: str | None, workers: int) -> Options:
    return Options(by="hash:id", partitions=64, pace="fast", workers=workers, storage=storage)


def test_workers_help_until_the_storage_limits() -> None:
    slow = [estimate_sizes(SIZES, _fast("gp3", w), 64) for w in (1, 4, 8)]
    quick = [estimate_sizes(SIZES, _fast("io2-block-express:iops=256000", w), 64) for w in (1, 4, 8)]
    assert quick[0].least_duration_s > 3 * quick[1].least_duration_s
    assert quick[1].least_duration_s > 1.2 * quick[2].least_duration_s
    # 125 MiB/s for the 5.3 TB that must at least be moved, whoever asks.
    assert slow[1].least_duration_s == pytest.approx(slow[2].least_duration_s, rel=0.01)
    assert {p.limit for p in slow[1].phases if p.name != "prepare"} == {"storage"}
    bare = estimate_sizes(SIZES, _fast(None, 4), 64)
    assert bare.least_duration_s < slow[1].least_duration_s
    assert bare.duration_s < slow[1].duration_s
    assert bare.storage == bare.burst_trap == ""


def test_the_pace_can_make_the_storage_matter_less() -> None:
    gentle = Options(by="hash:id", partitions=64, pace="gentle", storage="gp3:io=128kB")
    bare = Options(by="hash:id", partitions=64, pace="gentle")
    with_storage, without = estimate_sizes(SIZES, gentle, 64), estimate_sizes(SIZES, bare, 64)
    for name in ("copy", "verify"):
        one, other = (next(p for p in e.phases if p.name == name) for e in (with_storage, without))
        assert one.most_s == pytest.approx(other.most_s), name
        assert one.limit == "work"


def test_the_burst_trap_is_named_with_its_figures() -> None:
    made = paper.plan(paper.TRAP_HEAP_BYTES, f"{paper.TRAP_STORAGE},io=8kB", 4)
    assert "up to 1,840 IOPS for the first 1 h 0 min, then 340" in made.burst_trap
    assert "would take 32 h" in made.burst_trap
    assert "takes up to 7 d" in made.burst_trap
    assert 6.9 * 86_400 < made.duration_s < 7.2 * 86_400
    assert paper.plan(paper.TRAP_HEAP_BYTES, "gp3", 4).burst_trap == ""


def test_a_rehearsal_scales_by_bytes_and_sorting() -> None:
    measured = MeasuredCopy(
        table="t", heap_bytes=10**10, took_s=100.0, pace="fast", workers=2, rows=40_000_000, index_s=60.0,
        verify_s=50.0, rehearsed=True,
    )  # fmt: skip
    made = estimate_sizes(SIZES, _fast(None, 2), 64, measured=measured)
    phases = {p.name: p for p in made.phases}
    assert phases["copy"].least_s < 10_000 < phases["copy"].most_s
    assert phases["verify"].least_s < 5_000 < phases["verify"].most_s
    # A hundred times the rows take a hundred times as long, and log(4e9)/log(4e7) longer still to sort.
    assert phases["index"].least_s == pytest.approx(6_000 / 1.5)
    assert phases["index"].most_s == pytest.approx(6_000 * math.log(4e9) / math.log(4e7) * 1.5)
    assert "measured: a rehearsal of t" in made.basis
    other = estimate_sizes(SIZES, _fast(None, 8), 64, measured=measured)
    assert next(p for p in other.phases if p.name == "index").most_s != phases["index"].most_s


# --- the running ETA --------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _drive(rate: Rate, clock: Clock, seconds: float, per_second: float, done: float, step: float = 0.25) -> float:
    end = clock.now + seconds
    while clock.now < end:
        clock.now += step
        done += per_second * step
        rate.add(round(done))
    return done


def test_a_range_needs_some_windows_and_holds_a_steady_rate() -> None:
    clock = Clock()
    rate = Rate(clock)
    done = _drive(rate, clock, 1.5, 1000, 0)
    assert rate.spread() is None
    assert rate.eta_s(1000) == pytest.approx(1.0)
    done = _drive(rate, clock, 60, 1000, done)
    low, high = rate.spread() or (0, 0)
    assert low == pytest.approx(1000, rel=0.02)
    assert high == pytest.approx(1000, rel=0.02)
    _drive(rate, clock, 1_000_000, 1000, done, step=20)
    assert rate.spread() == (pytest.approx(1000, rel=0.02), pytest.approx(1000, rel=0.02))


def test_a_range_is_as_wide_as_the_rate_swings() -> None:
    clock, noise = Clock(), random.Random(4)
    rate, done = Rate(clock), 0.0
    for _ in range(120):
        done = _drive(rate, clock, 1.0, noise.choice((500, 1500)), done)
    low, high = rate.spread() or (0, 0)
    assert 450 < low < 900
    assert 1100 < high < 1550


def test_a_standstill_makes_the_worst_unknown() -> None:
    clock = Clock()
    rate = Rate(clock)
    done = _drive(rate, clock, 20, 1000, 0)
    _drive(rate, clock, 20, 0, done)
    spread = rate.spread()
    assert spread is not None
    assert spread[0] == 0
    moment = Progress(table="t", phase="copy", done=1, total=10, eta_s=5.0, eta_least_s=4.0)
    assert "ETA 4.0 s or more" in describe(moment)


def test_what_another_process_finished_is_no_speed() -> None:
    clock = Clock()
    rate = Rate(clock, done=1_000_000)
    _drive(rate, clock, 10, 100, 1_000_000)
    assert rate.per_second == pytest.approx(100, rel=0.05)


def test_a_first_batch_is_no_rate() -> None:
    clock = Clock()
    rate = Rate(clock)
    clock.now += 0.003
    rate.add(5_200)
    assert (rate.per_second, rate.eta_s(1_000)) == (0.0, None)
    _drive(rate, clock, 5, 100, 5_200)
    assert 100 <= rate.per_second < 1_500


def test_the_screen_shows_the_range() -> None:
    moment = Progress(table="t", phase="copy", done=1, total=10, eta_s=9_000, eta_least_s=7_800, eta_most_s=10_800)
    assert "ETA 2 h 10 min to 3 h 0 min" in describe(moment)
    assert "2 h 30 min left" in describe(Progress(table="t", phase="copy", done=1, total=10, eta_s=9_000))


def test_the_simulated_trap_is_caught() -> None:
    found = simulation.simulate()
    early = next(x for x in found.looks if x.at_s >= 600)
    assert 6.5 * 86_400 < found.took_s < 8 * 86_400
    # The rate of the first minutes, and windows of it, say a day and a half.
    assert early.naive_s < 0.25 * found.took_s
    assert early.windows is not None
    assert early.windows[1] < 0.3 * found.took_s
    for look in (x for x in found.looks if x.model is not None):
        assert look.model is not None
        assert look.model[0] <= found.took_s <= look.model[1] * 1.005, look
    # After the fall the range closes.
    late = next(x for x in found.looks if x.at_s >= 4 * 3600)
    assert late.model is not None
    assert late.model[1] / late.model[0] < 1.6


def test_storage_that_limits_swings_as_the_windows_do() -> None:
    storage = _parsed("gp2:500GB,io=8kB")
    outlook = Outlook(storage, {"copy": Traffic(least_bytes=1e12, most_bytes=1e12)}, Clock())
    rate = 3_000 * 8192 / 1e12
    steady, _ = outlook.left_s("copy", 1.0, rate, rate) or (0, 0)
    least, most = outlook.left_s("copy", 1.0, rate * 0.8, rate * 1.2) or (0, 0)
    assert least == pytest.approx(steady / 1.2, rel=0.01)
    assert most == pytest.approx(steady / 0.8, rel=0.01)


def test_what_a_dead_process_moved_costs_no_credit() -> None:
    clock = Clock()
    storage = _parsed("gp2:500GB,io=8kB")
    outlook = Outlook(storage, {"copy": Traffic(least_bytes=1e12, most_bytes=1e12)}, clock)
    clock.now = 10.0
    outlook.note("copy", 0.5)
    rate = 3_000 * 8192 / 1e12
    least, most = outlook.left_s("copy", 0.5, rate, rate) or (0, 0)
    assert least == most
    # Half of it at the burst for an hour, the rest at the baseline.
    assert least == pytest.approx(3_600 + (0.5e12 - 3_600 * 3_000 * 8192) / (1_500 * 8192), rel=0.001)


# --- the page ---------------------------------------------------------------------------------------------


def test_the_page_says_what_the_code_computes() -> None:
    import estimate_docs  # noqa: PLC0415 because the path is set above

    page = estimate_docs.PAGE.read_text(encoding="utf-8")
    made = estimate_docs.renewed(page, estimate_docs.parts(simulation.simulate()))
    assert made == page, "run `make estimates`"
    assert "32 h" in page
