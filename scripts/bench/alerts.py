"""Cost of packaging and sending alerts.

Alerts with 30 earlier and 30 forced sources and three 30 px cutouts with PSFs are packaged and
encoded, also by the straightforward path; a visit of 40,000 goes through files; 10,000 go to
an Apache Kafka of the benchmark's own (with ``--quick``: 300 to the embedded broker) with each
codec, with the broker away in the middle, beside a lagging reader, and damaged.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

from lib import alert_sending as sending
from lib.alert_broker import Broker, embedded, kafka
from lib.alert_packets import all_messages, packaging_ms, straightforward_ms
from lib.results import Checks, Rows, check, parser, publish

from promptdia.pipeline.io.alert_files import write_container
from promptdia.pipeline.io.avro import alert_id

AWAY_S = 10.0
_VISIT = Path(__file__).parent / "lib" / "alert_visit.py"


def packaging(seed: int, n: int, each: int) -> tuple[Checks, Rows]:
    """CPU per alert: ours, and the straightforward path in the same process."""
    cold, *warm = packaging_ms(seed, n, each)
    usual = statistics.median(warm)
    plain, differing = straightforward_ms(seed, each // 10)
    checks = [
        check("package and encode, first detector of a process, CPU ms", cold, "<= 2.5"),
        check("package and encode, later detectors, CPU ms", usual, "<= 0.4"),
        check("straightforward path over ours", plain / usual, ">= 37.5"),
        check("alerts whose bytes are not fastavro's", differing, "== 0"),
    ]
    rows = [
        {"what": "package and encode", "alerts": n, "cold_ms": cold, "warm_ms": usual},
        {"what": "CCDData.write and fastavro", "alerts": each // 10, "ms": plain},
    ]
    return checks, rows


def whole_visit(folder: Path, seed: int, n: int) -> tuple[Checks, Rows]:
    """A visit from tables to files and back, in a process of its own."""
    command = [sys.executable, str(_VISIT), str(folder), str(n), str(seed)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    checks = [
        check(f"visit of {n} alerts, peak MiB", found["peak_mib"], "<= 512"),
        check(f"visit of {n} alerts, missing", n - found["alerts"], "== 0"),
    ]
    return checks, [{"what": "visit through files", **found}]


def packaged(path: Path, seed: int, n: int, each: int) -> sending.Alerts:
    """A file of n alerts."""
    messages = list(chain.from_iterable(all_messages(seed, n, each)))
    write_container(path, messages)
    return sending.Alerts(path, [alert_id(message) for message in messages])


def rates(broker: Broker, alerts: sending.Alerts) -> tuple[Checks, Rows]:
    """Each codec: seconds to acknowledged, then what a reader finds."""
    checks, rows = [], []
    megabytes = alerts.path.stat().st_size / 1e6
    for codec in sending.CODECS:
        took = sending.send(broker, f"rate-{codec}", alerts.pairs(), codec)
        found = sending.read_back(broker, f"rate-{codec}", alerts.ids)
        rows.append({"what": f"send, {codec}", "broker": broker.name, "alerts": len(alerts.ids),
                     "megabytes": megabytes, "seconds": took, **found})  # fmt: skip
        wrong = sum(found[name] for name in ("lost", "strange", "twice", "out_of_order"))
        checks += [
            check(f"{len(alerts.ids)} alerts, {codec}, s to acknowledged", took, "<= 20"),
            check(f"{codec}: lost, strange, twice or out of order", wrong, "== 0"),
        ]
    return checks, rows


def trouble(
    broker: Broker, alerts: sending.Alerts, seed: int, away_s: float, n: int
) -> tuple[Checks, Rows]:
    """An outage, a lagging reader without registry, and damaged messages."""
    out = sending.outage(broker, "outage", alerts, away_s)
    slow = sending.slowed(broker, alerts, n)
    bad = sending.damaged(broker, alerts, seed)
    name = f"broker away for {away_s:g} s"
    checks = [
        check(f"{name}: lost", out["lost"], "== 0"),
        check(f"{name}: twice or out of order", out["twice"] + out["out_of_order"], "== 0"),
        check("send time beside a lagging reader, no registry", slow["ratio"], "<= 1.25"),
        check("errors counted of 1,000 damaged messages", bad["errors"], "== 1000"),
        check("alerts among them that were read, of 100", bad["alerts"], "== 100"),
    ]
    return checks, [
        {"what": name, "broker": broker.name, **out},
        {"what": "lagging reader", "broker": broker.name, **slow},
        {"what": "damaged messages", "broker": broker.name, **bad},
    ]


def run(args: argparse.Namespace) -> tuple[Checks, Rows]:
    """Checks and rows."""
    n, each, visit = (300, 100, 1000) if args.quick else (10_000, 500, 40_000)
    rows: Rows = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # first, because a process starts with the peak of the one that made it
        parts = [whole_visit(folder, args.seed, visit), packaging(args.seed, n, each)]
        alerts = packaged(folder / "alerts.avro", args.seed, n, each)
        try:
            wanted = embedded(sending.TOPICS) if args.quick else kafka(folder / "kafka")
            broker = stack.enter_context(wanted)
        except subprocess.CalledProcessError as error:
            rows.append({"what": "Apache Kafka", "reason": f"scripts/kafka up failed: {error}"})
        else:
            away_s, some = (1.0, 100) if args.quick else (AWAY_S, 2000)
            parts.append(rates(broker, alerts))
            parts.append(trouble(broker, alerts, args.seed, away_s, some))
    return [c for p in parts for c in p[0]], [r for p in parts for r in p[1]] + rows


def main() -> None:
    """Print a table, or one JSON object."""
    arguments = parser(__doc__, "few alerts, embedded broker")
    args = arguments.parse_args()
    checks, rows = run(args)
    packages = ("promptdia", "numpy", "astropy", "fastavro", "confluent-kafka")
    publish("alerts", checks, rows, packages, args.json)


if __name__ == "__main__":
    main()
