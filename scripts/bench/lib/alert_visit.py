"""A whole visit into files and out of them, in a process of its own: what memory it needs.

usage: alert_visit.py FOLDER ALERTS SEED; prints one JSON object
"""

import json
import resource
import sys
import time
from pathlib import Path

from alert_packets import all_messages

from promptdia.pipeline.io.alert_files import read_messages, write_container
from promptdia.pipeline.io.avro import alert_id

DETECTORS = 200


def main(folder: Path, n: int, seed: int) -> None:
    """Package detector by detector; each file is read as the sender does, then deleted."""
    ids: set[int] = set()
    n_bytes = 0
    before = _peak_mib()
    start = time.process_time()
    for number, messages in enumerate(all_messages(seed, n, max(1, n // DETECTORS))):
        path = folder / f"{number}.avro"
        write_container(path, messages)
        del messages
        for message in read_messages(path):
            ids.add(alert_id(message))
            n_bytes += len(message)
        path.unlink()
    result = {
        "alerts": len(ids),
        "gigabytes": n_bytes / 1e9,
        "peak_mib": _peak_mib(),
        "peak_mib_of_imports": before,
        "cpu_s": time.process_time() - start,
    }
    print(json.dumps(result))


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
