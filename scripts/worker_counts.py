"""Process the nights of a simulated survey with several numbers of workers; compare what is stored.

Calibrations and templates are made once. Each number of workers gets a copy of that
repository and processes all nights; then every row of the database must be the same,
times of processing apart, and no object may exist twice.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from scipy.spatial import cKDTree

from promptdia.apdb import tables as t
from promptdia.apdb.sql import SqlApdb
from promptdia.pipeline.repository import Repository
from promptdia.tasks.model.wcs import unit_vectors

PROMPTDIA = [sys.executable, "-m", "promptdia.pipeline.cli"]


def main() -> int:
    """Print a line per number of workers; 1 when two differ or an object exists twice."""
    parser = argparse.ArgumentParser(prog="scripts/workers", description=__doc__)
    parser.add_argument("--survey", default="small")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(Path(folder) / "prepared", args.survey, args.seed)
        found = [{"workers": n, **processed(prepared, n)} for n in args.workers]
    if args.json:
        print(json.dumps({"survey": args.survey, "seed": args.seed, "runs": found}))
    else:
        for row in found:
            print("  ".join(f"{key} {value}" for key, value in row.items()))
    same = len({json.dumps({**row, "workers": 0}) for row in found}) == 1
    sound = not any(row["broken"] or row["close_objects"] for row in found)
    return int(not (same and sound))


def prepare(root: Path, survey: str, seed: int) -> Path:
    """A repository with calibrations and templates."""
    promptdia("simulate", root, "--survey", survey, "--seed", seed)
    promptdia("calib", root)
    promptdia("template", root)
    return root


def processed(prepared: Path, workers: int) -> dict[str, Any]:
    """What the database holds after all nights."""
    root = prepared.parent / f"workers_{workers}"
    shutil.copytree(prepared, root, copy_function=os.link)
    nights = sorted({visit.day_obs for visit in Repository(root).visits()})
    for night in nights[1:]:  # the first is what the templates were made of
        promptdia("night", root, night, "--workers", workers, "--json")
    url = Repository(root).apdb_url
    store = SqlApdb.open(url)
    counts = {name: store.countings()[name] for name in ("DiaObject", "DiaSource")}
    result = {
        "content": content(url), **counts,
        "close_objects": close_objects(store), "broken": store.check(),
    }  # fmt: skip
    store.close()
    shutil.rmtree(root)
    return result


def content(url: str) -> str:
    """A checksum of all rows of all tables, times of processing apart."""
    digest, engine = hashlib.blake2b(digest_size=12), sa.create_engine(url)
    with engine.connect() as connection:
        for table in t.metadata.sorted_tables:
            columns = [c for c in table.columns if not c.name.startswith("timeProcessed")]
            query = sa.select(*columns).order_by(*table.primary_key.columns)
            for row in connection.execute(query):
                digest.update(repr((table.name, *row)).encode())
    engine.dispose()
    return digest.hexdigest()


def close_objects(store: SqlApdb) -> int:
    """Pairs of objects within an arcsecond of which no visit saw both: one object, twice."""
    objects = store.objects()
    chord = 2 * np.sin(np.deg2rad(1 / 3600) / 2)
    pairs = cKDTree(unit_vectors(objects["ra"], objects["dec"])).query_pairs(chord)
    double = 0
    for i, j in pairs:
        sources = store.history(objects["diaObjectId"][[i, j]]).sources
        seen = [set(sources["visit"][sources["diaObjectId"] == objects["diaObjectId"][k]])
                for k in (i, j)]  # fmt: skip
        double += not seen[0] & seen[1]
    return double


def promptdia(*words: object) -> None:
    """Run a command; a detector that failed does not stop the comparison."""
    command = [*PROMPTDIA, *map(str, words)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(f"promptdia {' '.join(map(str, words))}: {done.stderr}")


if __name__ == "__main__":
    raise SystemExit(main())
