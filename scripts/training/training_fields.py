"""Simulate and process the fields that the reliability model is trained on.

Five small surveys that differ in what makes artefacts and in what hides real changes:
seeing, star and galaxy density, cosmic rays, number of template visits, satellites.
Each becomes a repository with truth, processed with scores switched off.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import yaml

from promptdia.apdb.sql import SqlApdb
from promptdia.pipeline.calib import build_calibrations
from promptdia.pipeline.night import jobs_of, process
from promptdia.pipeline.pool import Executor, open_executor
from promptdia.pipeline.repository import Repository
from promptdia.pipeline.sim import SURVEYS, Survey
from promptdia.pipeline.sim.surveys import Night
from promptdia.pipeline.simulate import simulate
from promptdia.pipeline.templates import build_templates

UNSCORED = {"pipeline": {"reliability": {"enabled": False}}}


def surveys() -> list[Survey]:
    """The training surveys, in a fixed order."""
    small = SURVEYS["small"]
    plain = replace(small, n_bias=5, n_dark=3, n_flat=3, dither_arcsec=40.0)
    richer = replace(
        plain.population,
        hosted_supernovae=110,
        hostless_supernovae=60,
        variable_stars=150,
        active_nuclei=30,
        asteroids_per_night=40,
        trails_per_visit=1.0,
        satellites_per_visit=0.6,
    )
    common = replace(plain, population=richer)
    crowded = replace(richer, stars_to_21=25.0, star_slope=0.30)
    bright = replace(richer, star_brightest=11.5, stars_to_21=8.0, galaxies_to_24=30.0)
    variants = [
        (common, 4, (0.70, 1.00), (0.75, 1.20)),
        (common, 3, (0.95, 1.30), (0.65, 0.90)),  # the template is the worse one
        (replace(common, population=crowded), 4, (0.75, 1.00), (0.75, 1.30)),
        (replace(common, population=bright), 4, (0.75, 1.00), (0.75, 1.20)),
        (replace(common, cosmic_rays=1.0), 2, (0.75, 1.10), (0.65, 1.20)),
    ]
    return [
        replace(
            survey,
            name=f"training-{number}",
            nights=(
                Night(20260930, n_template, template=True, seeing_arcsec=template_seeing),
                Night(20261110, 5, seeing_arcsec=seeing),
            ),
        )
        for number, (survey, n_template, template_seeing, seeing) in enumerate(variants)
    ]


def make_field(root: Path, survey: Survey, seed: int, executor: Executor) -> int:
    """Simulate and process one training survey; how many detections are left to score."""
    repository = Repository.create(root, survey.instrument)
    settings = yaml.safe_load((root / "promptdia.yaml").read_text()) | UNSCORED
    (root / "promptdia.yaml").write_text(yaml.safe_dump(settings))
    repository = Repository(root)
    sim = simulate(repository, survey, seed, executor)
    build_calibrations(repository, executor)
    build_templates(repository, [repository.visit(v) for v in sim.template_visits], executor)
    store = SqlApdb.create(repository.apdb_url)
    jobs = jobs_of(repository, [repository.visit(v) for v in sim.science_visits])
    return sum(o.n_alerts for o in process(repository, jobs, store, executor, "training"))


def main() -> None:
    """Make all fields below a folder."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path, help="gets one repository per survey")
    arguments.add_argument("--seed", type=int, default=100)
    arguments.add_argument("--workers", type=int)
    args = arguments.parse_args()
    with open_executor(args.workers) as executor:
        for number, survey in enumerate(surveys()):
            n = make_field(args.folder / survey.name, survey, args.seed + number, executor)
            print(f"{survey.name}: {n} detections", flush=True)


if __name__ == "__main__":
    main()
