"""What the usual cloud volumes give, and the words of `--storage`. Pure.

Where the figures are from, read in November 2026; nothing here follows what changed in the documentation since:

- gp2, gp3, io1, io2, st1, sc1: Amazon EC2 User Guide, "General Purpose SSD volumes", "Provisioned IOPS SSD volumes",
  "Throughput Optimized HDD and Cold HDD volumes" (github.com/awsdocs/amazon-ec2-user-guide, doc_source/
  general-purpose.md, provisioned-iops.md, hdd-vols.md). gp2: 3 IOPS a GiB, 100 to 16,000; below 3,000 it bursts to
  3,000 on 5.4 million credits; 128 MiB/s up to 170 GiB, else 250. st1: 40 MiB/s a TiB, burst 250 a TiB, both up to
  500, credit of one TiB a TiB. sc1: 12 and 80 a TiB, up to 192 and 250.
- instances: the same guide, "Amazon EBS-optimized instances" (ebs-optimized.md): maximum and baseline of MB/s and of
  IOPS; the maximum for 30 minutes at least once every 24 hours. An RDS class db.X runs on the instance X.
- Azure: "Select a disk type" and "Managed disk bursting" (learn.microsoft.com/azure/virtual-machines/disks-types,
  disk-bursting; the table of sizes of 16 March 2023): up to P20 a disk bursts to 3,500 IOPS and 170 MB/s, and full
  credits last for 30 minutes at that. The paid bursting of P30 and more is not counted.
- Google: "About Persistent Disk performance" and "About Hyperdisk Balanced" (cloud.google.com/compute/docs/disks/
  performance, hd-types/hyperdisk-balanced): a rate a GiB and a most an instance. Its table for zonal disks could be
  read for throughput, the one for regional disks for IOPS. What small balanced and SSD disks get beyond that is left
  out, and so are the limits of machine types: name yours with iops= and throughput=.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from pgscale.core.storage import Bucket, Storage
from pgscale.errors import UsageError

KIB, MIB, GIB, TIB = 2**10, 2**20, 2**30, 2**40
HALF_AN_HOUR_S = 1_800
MEASURED = "measured"

_SIZE = re.compile(r"^(\d+(?:\.\d+)?)\s*([kKMGT])(?:i?B)?$")
_UNITS = {"k": KIB, "K": KIB, "M": MIB, "G": GIB, "T": TIB}
_NUMBER = re.compile(r"^\d+(?:\.\d+)?$")

GP2_CREDIT, GP2_BURST = 5_400_000, 3_000

# Base IOPS and MB/s of a disk; up to P20 it bursts.
AZURE_PREMIUM: dict[str, tuple[int, int]] = {
    "p1": (120, 25), "p2": (120, 25), "p3": (120, 25), "p4": (120, 25), "p6": (240, 50), "p10": (500, 100),
    "p15": (1_100, 125), "p20": (2_300, 150), "p30": (5_000, 200), "p40": (7_500, 250), "p50": (7_500, 250),
    "p60": (16_000, 500), "p70": (18_000, 750), "p80": (20_000, 900),
}  # fmt: skip
AZURE_BURSTING = ("p1", "p2", "p3", "p4", "p6", "p10", "p15", "p20")
AZURE_BURST = (3_500, 170)

# Baseline IOPS and MB/s, then the most of both, for the sizes that burst.
INSTANCES: dict[str, tuple[float, float, float, float]] = {
    **{f"{f}.large": (3_600, 81.25, 18_750, 593.75) for f in ("m5", "m5d", "r5", "r5d")},
    **{f"{f}.xlarge": (6_000, 143.75, 18_750, 593.75) for f in ("m5", "m5d", "r5", "r5d")},
    **{f"{f}.2xlarge": (12_000, 287.5, 18_750, 593.75) for f in ("m5", "m5d", "r5", "r5d")},
    **{f"{f}.large": (3_600, 78.75, 20_000, 593.75) for f in ("m6g", "m6gd", "r6g", "r6gd")},
    **{f"{f}.xlarge": (6_000, 148.5, 20_000, 593.75) for f in ("m6g", "m6gd", "r6g", "r6gd")},
    **{f"{f}.2xlarge": (12_000, 296.875, 20_000, 593.75) for f in ("m6g", "m6gd", "r6g", "r6gd")},
    "m6i.large": (3_600, 81.25, 40_000, 1_250),
    "m6i.xlarge": (6_000, 156.25, 40_000, 1_250),
    "m6i.2xlarge": (12_000, 312.5, 40_000, 1_250),
    "m6i.4xlarge": (20_000, 625, 40_000, 1_250),
    "r5b.large": (5_417, 156.25, 43_333, 1_250),
    "r5b.xlarge": (10_833, 312.5, 43_333, 1_250),
    "r5b.2xlarge": (21_667, 625, 43_333, 1_250),
    "t3.micro": (500, 10.86, 11_800, 260.57),
    "t3.small": (1_000, 21.71, 11_800, 260.57),
    "t3.medium": (2_000, 43.43, 11_800, 260.57),
    "t3.large": (4_000, 86.86, 15_700, 347.5),
    "t3.xlarge": (4_000, 86.86, 15_700, 347.5),
    "t3.2xlarge": (4_000, 86.86, 15_700, 347.5),
    "t4g.micro": (500, 8, 11_800, 325.75),
    "t4g.small": (1_000, 16, 11_800, 325.75),
    "t4g.medium": (2_000, 32, 11_800, 325.75),
    "t4g.large": (4_000, 64, 15_700, 434.37),
    "t4g.xlarge": (4_000, 128, 15_700, 434.37),
    "t4g.2xlarge": (4_000, 256, 15_700, 434.37),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The parts of one `--storage`: numbers in plain units, sizes in bytes."""

    kind: str
    given: dict[str, float]
    instance: str = ""

    def need(self, name: str, example: str) -> float:
        if name not in self.given:
            raise UsageError(f"--storage {self.kind} needs its {name}.", hint=f"For example: {example}")
        return self.given[name]

    def get(self, name: str, otherwise: float) -> float:
        return self.given.get(name, otherwise)


def _io(rate: float, burst: float | None = None, credit: float = 0.0, of: str = "the volume") -> Bucket:
    return Bucket(unit="io", baseline=rate, burst=burst or rate, credit=credit, of=of)


def _through(rate: float, burst: float | None = None, credit: float = 0.0, of: str = "the volume") -> Bucket:
    return Bucket(unit="bytes", baseline=rate, burst=burst or rate, credit=credit, of=of)


def _gp2(words: Words) -> tuple[Bucket, ...]:
    gib = words.need("size", "gp2:500GB") / GIB
    baseline = min(max(3.0 * gib, 100.0), 16_000.0)
    through = _through((128 if gib <= 170 else 250) * MIB)
    return (_io(baseline, GP2_BURST, GP2_CREDIT) if baseline < GP2_BURST else _io(baseline), through)


def _gp3(words: Words) -> tuple[Bucket, ...]:
    return (_io(words.get("iops", 3_000)), _through(words.get("throughput", 125 * MIB)))


def _provisioned(words: Words) -> tuple[Bucket, ...]:
    """io1, and io2 where it does not run on Block Express."""
    iops = words.need("iops", f"{words.kind}:iops=10000")
    through = min(256 * KIB * iops, 500 * MIB) if iops <= 32_000 else min(16 * KIB * iops, 1_000 * MIB)
    return (_io(iops), _through(through))


def _block_express(words: Words) -> tuple[Bucket, ...]:
    iops = words.need("iops", "io2-block-express:iops=20000")
    return (_io(iops), _through(min(0.256 * MIB * iops, 4_000 * MIB)))


def _hdd(a_tib: float, burst_a_tib: float, most: float, most_burst: float) -> Callable[[Words], tuple[Bucket, ...]]:
    def make(words: Words) -> tuple[Bucket, ...]:
        size = words.need("size", f"{words.kind}:2TB")
        baseline, burst = min(a_tib * size / TIB, most) * MIB, min(burst_a_tib * size / TIB, most_burst) * MIB
        return (_through(baseline, burst, size if burst > baseline else 0.0),)

    return make


def _a_gib(iops: float, most_iops: float, mib: float, most_mib: float) -> Callable[[Words], tuple[Bucket, ...]]:
    """Google's persistent disks: the lower of what reads and writes get."""

    def make(words: Words) -> tuple[Bucket, ...]:
        if "size" not in words.given and {"iops", "throughput"} <= words.given.keys():
            return (_io(words.given["iops"]), _through(words.given["throughput"]))
        gib = words.need("size", f"{words.kind}:500GB") / GIB
        return (
            _io(words.get("iops", min(iops * gib, most_iops))),
            _through(words.get("throughput", min(mib * gib, most_mib) * MIB)),
        )

    return make


def _hyperdisk(words: Words) -> tuple[Bucket, ...]:
    return (_io(words.get("iops", 3_000)), _through(words.get("throughput", 140 * MIB)))


def _azure_v2(words: Words) -> tuple[Bucket, ...]:
    return (_io(words.get("iops", 3_000)), _through(words.get("throughput", 125e6)))


def _azure(size: str) -> Callable[[Words], tuple[Bucket, ...]]:
    iops, megabytes = AZURE_PREMIUM[size]

    def make(words: Words) -> tuple[Bucket, ...]:
        del words
        if size not in AZURE_BURSTING:
            return (_io(iops), _through(megabytes * 1e6))
        burst_iops, burst_megabytes = AZURE_BURST
        return (
            _io(iops, burst_iops, (burst_iops - iops) * HALF_AN_HOUR_S),
            _through(megabytes * 1e6, burst_megabytes * 1e6, (burst_megabytes - megabytes) * 1e6 * HALF_AN_HOUR_S),
        )

    return make


def _custom(words: Words) -> tuple[Bucket, ...]:
    example = "baseline=1500,burst=3000,credit=5400000,throughput=250MB"
    found: list[Bucket] = []
    if "baseline" in words.given:
        burst = words.get("burst", words.given["baseline"])
        credit = words.need("credit", example) if burst > words.given["baseline"] else 0.0
        found.append(_io(words.given["baseline"], burst, credit))
    if "throughput" in words.given:
        burst = words.get("burst_throughput", words.given["throughput"])
        more = f"{example},burst_throughput=500MB,throughput_credit=900GB"
        credit = words.need("throughput_credit", more) if burst > words.given["throughput"] else 0.0
        found.append(_through(words.given["throughput"], burst, credit))
    if not found:
        raise UsageError("--storage needs a baseline, a throughput, or both.", hint=f"For example: {example}")
    return tuple(found)


_SIZED = frozenset({"size"})
_RATED = frozenset({"iops", "throughput", "size"})
# What every kind takes beside its own: the size of an operation, and what the application takes itself.
_ALWAYS = frozenset({"io", "used", "used_throughput", "instance"})
_CUSTOM = frozenset({"baseline", "burst", "credit", "throughput", "burst_throughput", "throughput_credit"})
_BYTES = frozenset({"size", "throughput", "burst_throughput", "throughput_credit", "io", "used_throughput"})

KINDS: dict[str, tuple[Callable[[Words], tuple[Bucket, ...]], frozenset[str]]] = {
    "gp2": (_gp2, _SIZED),
    "gp3": (_gp3, _RATED),
    "io1": (_provisioned, frozenset({"iops", "size"})),
    "io2": (_provisioned, frozenset({"iops", "size"})),
    "io2-block-express": (_block_express, frozenset({"iops", "size"})),
    "st1": (_hdd(40, 250, 500, 500), _SIZED),
    "sc1": (_hdd(12, 80, 192, 250), _SIZED),
    "pd-standard": (_a_gib(0.75, 7_500, 0.12, 400), _RATED),
    "pd-balanced": (_a_gib(6, 80_000, 0.28, 1_200), _RATED),
    "pd-ssd": (_a_gib(30, 100_000, 0.48, 1_200), _RATED),
    "hyperdisk-balanced": (_hyperdisk, _RATED),
    "azure-premium-v2": (_azure_v2, _RATED),
    **{f"azure-{size}": (_azure(size), frozenset[str]()) for size in AZURE_PREMIUM},
}


def parse_storage(text: str) -> Storage | None:
    """Return the storage that `--storage` describes; None for `measured`, which describes none.

    `gp2:500GB`, `gp3:iops=6000,throughput=500MB`, `io2:iops=20000`, `azure-p20`, or without a kind
    `baseline=1500,burst=3000,credit=5400000,throughput=250MB`. Every one also takes `used=` (IOPS that the
    application takes itself) and `used_throughput=`, `instance=` (an EC2 or RDS instance that bursts), and `io=`
    (the size of an operation, where it is known). Sizes are powers of 1024.

    Raises:
        UsageError: it is none of these.
    """
    if text.strip() == MEASURED:
        return None
    words = _read(text)
    try:
        make = KINDS[words.kind][0] if words.kind else _custom
        storage = Storage(name=text.strip(), buckets=(*make(words), *_instance(words.instance)))
        if "io" in words.given:
            storage = replace(storage, least_io_bytes=words.given["io"], most_io_bytes=words.given["io"])
        return storage.with_used(words.get("used", 0.0), words.get("used_throughput", 0.0))
    except ValueError as error:
        raise UsageError(f"--storage {text!r}: {error}.") from None


def _instance(name: str) -> tuple[Bucket, ...]:
    if not name:
        return ()
    found = INSTANCES.get(name.removeprefix("db."))
    if found is None:
        raise UsageError(
            f"The limits of instance {name!r} are not known here.",
            hint=f"Known are {', '.join(sorted(INSTANCES))}; larger ones do not burst: describe the volume alone.",
        )
    iops, megabytes, most_iops, most_megabytes = found
    return (
        _io(iops, most_iops, (most_iops - iops) * HALF_AN_HOUR_S, of="the instance"),
        _through(
            megabytes * 1e6,
            most_megabytes * 1e6,
            (most_megabytes - megabytes) * 1e6 * HALF_AN_HOUR_S,
            of="the instance",
        ),
    )


def _read(text: str) -> Words:
    head, colon, rest = text.strip().partition(":")
    kind = head.strip().lower() if colon or "=" not in head else ""
    if kind and kind not in KINDS:
        raise UsageError(
            f"There is no storage {kind!r}.",
            hint=f"Use {', '.join(KINDS)}, {MEASURED}, or describe it: baseline=1500,burst=3000,credit=5400000.",
        )
    allowed = (KINDS[kind][1] if kind else _CUSTOM) | _ALWAYS
    given: dict[str, float] = {}
    instance = ""
    for part in (rest if kind else text).split(","):
        if not part.strip():
            continue
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            name, value = "size", name
        if name not in allowed:
            raise UsageError(
                f"--storage {kind or 'without a kind'} takes no {name!r}.",
                hint=f"It takes {', '.join(sorted(allowed))}.",
            )
        if name in given or (name == "instance" and instance):
            raise UsageError(f"--storage names {name!r} twice.")
        if name == "instance":
            instance = value
        else:
            given[name] = _amount(name, value)
    return Words(kind=kind, given=given, instance=instance)


def _amount(name: str, value: str) -> float:
    sized = _SIZE.match(value)
    if name in _BYTES:
        if sized is None:
            raise UsageError(f"--storage: {name} is {value!r}; write a size, such as 500GB or 250MB.")
        number = float(sized[1]) * _UNITS[sized[2]]
    elif _NUMBER.match(value):
        number = float(value)
    else:
        raise UsageError(f"--storage: {name} is {value!r}; write a number.")
    if not (math.isfinite(number) and (number > 0 or name.startswith("used"))):
        raise UsageError(f"--storage: {name} must be more than nothing.")
    return number
