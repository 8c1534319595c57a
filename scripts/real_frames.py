"""Real frames, from the files as delivered to alerts, compared with what is known of them.

Where a camera wrote no WCS and there is no catalogue of the field, one good frame is chosen
to define the sky, and everything after is relative to it.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from real_curve import event_light, light_curve_numbers
from real_page import write_page
from real_pictures import draw_campaign, draw_packets
from real_repeats import find_repeats
from real_truth import Truth, compare, print_comparison, summarize

from promptdia.apdb.sql import SqlApdb
from promptdia.pipeline.bootstrap import bootstrap
from promptdia.pipeline.calib import build_calibrations
from promptdia.pipeline.console import Progress
from promptdia.pipeline.errors import ConfigError, InputError, PromptdiaError
from promptdia.pipeline.ingest import ingest
from promptdia.pipeline.io.alert_files import read_container
from promptdia.pipeline.night import jobs_of, process
from promptdia.pipeline.pool import open_executor
from promptdia.pipeline.repository import Repository
from promptdia.pipeline.templates import build_templates
from promptdia.pipeline.worker import Outcome

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
ZERO_POINT = 25.0
"""AB magnitude taken for one electron: there is no catalogue to measure it with."""


@dataclass(frozen=True)
class Campaign:
    """What is special about one data set: files, and which frames serve for what."""

    instrument: str
    folder: str
    frames: tuple[str, ...]
    """File patterns of science and calibration frames; headers tell them apart."""
    template: tuple[int, ...]
    """Sequence numbers of the frames that go into the template."""
    truth: Truth
    sky: int | None = None
    """Sequence number of the frame whose stars become the reference catalogue; None for frames
    that were calibrated elsewhere."""
    master_flat: str | None = None
    with_template: bool = False
    """The frames of the template are processed like the others."""


CAMPAIGNS = {
    # Four templates in an hour: the asteroid stands in another place in each, and is clipped.
    "lux2713": Campaign(
        instrument="lux2713",
        folder="lux2713_n1",
        frames=("light_*", "dark_*", "bias_*"),
        master_flat="DERIVED_smallscale_skyflat.fits.gz",
        sky=20,
        template=(15, 22, 28, 34),
        truth=Truth("asteroid_truth.csv"),
    ),
    # The last nights, with the best seeing, when the event was nearly over.
    "saao": Campaign(
        instrument="saao-ste3",
        folder="saao_kb13475_early",
        frames=("AKB13475I*",),
        sky=21,
        template=(53, 54, 55, 56, 57),
        truth=Truth("event_truth_lightcurve.csv", has_light=True),
        with_template=True,
    ),
    # The later epoch, sharper, without the transient. The WCS is wrong by half a pixel.
    "decam": Campaign(
        instrument="decam-mini",
        folder="decam_mini_transient",
        frames=("DEC-OBS*",),
        template=(11, 12, 13, 14, 15),
        truth=Truth(at=(128.7, 127.6)),
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one campaign; returns the exit status."""
    args = _arguments(argv)
    base = args.data or Path(os.environ.get("PROMPTDIA_DATA") or DATA)
    try:
        if args.campaign == "alerts":
            result = draw_rubin(base, args.root or Path("real-alerts"))
            if not args.json:
                print(f"{result['decoded']} alerts decoded; drawn:", *result["pictures"], sep="\n")
        else:
            campaign = CAMPAIGNS[args.campaign]
            root = args.root or Path(f"real-{args.campaign}")
            with Progress(quiet=args.json) as progress:
                repository = prepare(campaign, base, root, progress, args.workers)
                outcomes = run(campaign, repository, progress, args.workers)
            result = report(campaign, base, repository, outcomes, quiet=args.json)
    except ConfigError as error:
        print(f"promptdia: {error}", file=sys.stderr)
        return 2
    except PromptdiaError as error:
        print(f"promptdia: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(result, default=float))
    return 0


def prepare(
    campaign: Campaign,
    base: Path,
    root: Path,
    progress: Progress,
    workers: int | None = None,
    only: Sequence[int] | None = None,
) -> Repository:
    """A repository with frames, calibrations, reference catalogue and template.

    ``only`` leaves out the science frames of other sequence numbers.
    """
    folder = base / campaign.folder
    if not folder.is_dir():
        raise ConfigError(f"no real data in {folder}; name the folder above it with --data")
    if root.exists() and any(root.iterdir()):
        raise ConfigError(f"{root} exists and is not empty; give another --root or remove it")
    repository = Repository.create(root, campaign.instrument)
    progress.stage("ingest", 0, 1)
    files = sorted(path for pattern in campaign.frames for path in folder.glob(pattern))
    kind = "calexp" if campaign.sky is None else None
    _ingest(repository, [f for f in files if only is None or _serves(f, only)], kind)
    if campaign.master_flat:
        _ingest(repository, [folder / campaign.master_flat], "flat", combined=True)
        progress.stage("calibrate", 0, 1)
        build_calibrations(repository)
    visits = {visit.id % 100_000: visit for visit in repository.visits()}
    if campaign.sky is not None:
        progress.stage("reference", 0, 1)
        bootstrap(repository, visits[campaign.sky].id, 0, ZERO_POINT)
    progress.stage("template", 0, 1)
    with open_executor(workers) as executor:
        made = build_templates(repository, [visits[n] for n in campaign.template], executor)
    for visit, _, reason in made.refused:
        print(f"promptdia: template visit {visit}: {reason}", file=sys.stderr)
    return repository


def run(
    campaign: Campaign, repository: Repository, progress: Progress, workers: int | None = None
) -> list[Outcome]:
    """Process the frames in time order."""
    left_out = () if campaign.with_template else campaign.template
    visits = [v for v in repository.visits() if v.id % 100_000 not in left_out]
    jobs = jobs_of(repository, visits)
    store = SqlApdb.create(repository.apdb_url)
    outcomes = []
    with open_executor(workers) as executor:
        for outcome in process(repository, jobs, store, executor, "real"):
            outcomes.append(outcome)
            progress.stage("night", len(outcomes), len(jobs))
    return outcomes


def report(
    campaign: Campaign, base: Path, repository: Repository, outcomes: list[Outcome], quiet: bool
) -> dict[str, Any]:
    """Compare with the truth, draw the pictures, and print unless ``quiet``."""
    rows = compare(repository, outcomes, campaign.truth, base / campaign.folder, campaign.template)
    result = summarize(rows, campaign.template)
    curve = event_light(repository, rows) if campaign.truth.has_light else None
    if curve is not None:
        result |= light_curve_numbers(curve)
    repeats = find_repeats(rows)
    result["repeating_positions"] = len(repeats)
    draw_campaign(repository, rows, curve)
    page = write_page(repository, rows, result, repeats)
    if not quiet:
        print_comparison(rows, result)
        for repeat in repeats:
            print(
                f"{repeat.ra:.5f} {repeat.dec:.5f}: {repeat.n_nights} nights, {repeat.kind}: "
                f"{repeat.why}"
            )
        print(f"frames, residuals and light curve: {page}")
    return {**result, "frames": [row.as_json() for row in rows]}


def draw_rubin(base: Path, root: Path) -> dict[str, Any]:
    """Decode and draw the real Rubin alerts in alerts_lsst."""
    packets = list(read_container(base / "alerts_lsst" / "fink_lsst_v10_0_7alerts.avro"))
    pages = draw_packets(packets, root)
    ids = [packet["diaSourceId"] for packet in packets]
    return {"decoded": len(packets), "alerts": ids, "pictures": [str(page) for page in pages]}


def _ingest(
    repository: Repository, files: list[Path], kind: str | None = None, combined: bool = False
) -> None:
    result = ingest(repository, files, kind, combined)
    if result.refused:
        raise InputError(result.refused[0][1])


def _serves(path: Path, only: Sequence[int]) -> bool:
    """Calibration frames always; science frames by their sequence number."""
    digits = path.name.split(".")[0][-3:]
    return not path.name.startswith(("light", "AKB")) or int(digits) in only


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/real", description=__doc__)
    parser.add_argument("campaign", choices=(*CAMPAIGNS, "alerts"))
    parser.add_argument("--data", type=Path, help="folder that holds the data sets' folders")
    parser.add_argument("--root", type=Path, help="repository to make (default: ./real-CAMPAIGN)")
    parser.add_argument("--workers", type=int, help="worker processes (default: one per core)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and no more")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
