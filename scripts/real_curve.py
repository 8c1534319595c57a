"""The event's light in every frame, by forced photometry, beside the table's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from real_truth import GOOD_SEEING_PX, Frame

from promptdia.apdb.schema.lsst import DIA_OBJECT
from promptdia.pipeline.io.fits import read_exposure
from promptdia.pipeline.repository import Repository
from promptdia.tasks.forced import ForcedConfig, ForcedPhotometry
from promptdia.tasks.model.arrays import Bools, Floats
from promptdia.tasks.model.exposure import DifferenceExposure, ScienceExposure

MEASURED = 0.1
"""An epoch is measured when the error of its flux is less than this part of the event's light."""
CLIP_SIGMA = 4.0
SIGMA_PER_MAD = 1.4826


@dataclass(frozen=True)
class LightCurve:
    """One value per frame that was subtracted."""

    mjd: Floats
    seeing_px: Floats
    table: Floats
    """The table's light; nan where it has no row."""
    flux: Floats
    """Forced on the difference, nJy; nan where no pixel could be used."""
    error: Floats
    detected: Bools

    def compared(self) -> "Compared | None":
        """Against the table; None with fewer than five frames to compare."""
        used = np.isfinite(self.table) & np.isfinite(self.flux) & (self.seeing_px < GOOD_SEEING_PX)
        if np.count_nonzero(used) < 5:
            return None
        seeing = self.seeing_px - np.median(self.seeing_px[used])
        columns = np.stack([self.table, np.ones_like(seeing), seeing, seeing**2], axis=1)
        solution = _clipped_fit(columns[used], self.flux[used])
        unit, base = solution[:2]
        deviation = (self.flux - base) / unit / self.table - 1
        without = (self.flux - columns @ solution) / unit / self.table
        return Compared(float(unit), float(base), used, deviation, without)


@dataclass(frozen=True)
class Compared:
    """Our light curve in the table's unit.

    Unit and light in the template are free. They are fitted together with a parabola in seeing,
    light that is added: the table's aperture takes in more or less of a neighbour 8 px away,
    whatever the event does. A fit without it gets the unit wrong.
    """

    njy_per_unit: float
    base_njy: float
    used: Bools
    """Frames in the table, of good seeing."""
    deviation: Floats
    """(ours - table) / table, of the event's whole light."""
    without_seeing: Floats
    """The same less that parabola."""


def event_light(repository: Repository, frames: Sequence[Frame]) -> LightCurve:
    """Forced photometry at the median place of the event's alerts."""
    alerts = [f.alert["diaSource"] for f in frames if f.alert]
    event = DIA_OBJECT.empty(1)
    for axis in ("ra", "dec"):
        event[axis] = np.median([alert[axis] for alert in alerts]) if alerts else np.nan
    force = ForcedPhotometry(ForcedConfig())
    done = [f for f in frames if f.status == "done"]
    rows = []
    for frame in done:
        (number,) = repository.detectors(frame.visit)
        camera = repository.detector(number)
        difference, science = (
            read_exposure(repository.product(frame.visit, number, name), camera, role)
            for name, role in (
                ("difference.fits", DifferenceExposure),
                ("calexp.fits", ScienceExposure),
            )
        )
        forced = force.run(event, difference, science)
        flux, error = (forced[name][0] if forced.size else np.nan for name in FLUX)
        rows.append((difference.visit.mjd_tai, flux, error))
    mjd, flux, error = np.array(rows, float).reshape(-1, 3).T
    return LightCurve(
        mjd,
        np.array([f.seeing_px for f in done]),
        np.array([f.known.light if f.known else np.nan for f in done]),
        flux,
        error,
        np.array([f.alert is not None for f in done], bool),
    )


FLUX = ("psfFlux", "psfFluxErr")


def light_curve_numbers(curve: LightCurve) -> dict[str, Any]:
    """What is asked of a light curve."""
    compared = curve.compared()
    significant = np.abs(curve.flux) > 5 * curve.error
    numbers: dict[str, Any] = {
        "light_curve_alerted_or_5_sigma": int(np.sum(curve.detected | significant))
    }
    if compared is None:
        return numbers
    light = compared.njy_per_unit * np.nanmedian(curve.table)
    measured = np.isfinite(curve.flux) & (curve.error < MEASURED * light)
    first, second = (
        values[compared.used] for values in (compared.deviation, compared.without_seeing)
    )
    return numbers | {
        "light_curve_measured": int(np.sum(curve.detected | measured)),
        "njy_per_table_unit": compared.njy_per_unit,
        "light_curve_compared": int(compared.used.sum()),
        "light_curve_scatter": scatter(first),
        "light_curve_within_5_percent": int(np.sum(np.abs(first) <= 0.05)),
        "light_curve_deviation_max": float(np.abs(first).max()),
        "light_curve_scatter_without_seeing": scatter(second),
        "light_curve_within_1.5_percent_without_seeing": int(np.sum(np.abs(second) <= 0.015)),
    }


def draw_light_curve(curve: LightCurve) -> Figure:
    """Our light and the table's in the table's unit, and how they differ."""
    figure = Figure(figsize=(8, 7), layout="constrained")
    above: Any
    below: Any
    by_seeing: Any
    above, below, by_seeing = figure.subplots(3, 1, height_ratios=(3, 2, 2))
    compared = curve.compared()
    if compared is None:
        above.errorbar(curve.mjd, curve.flux, curve.error, fmt="o", ms=4)
        return figure
    ours = (curve.flux - compared.base_njy) / compared.njy_per_unit
    above.plot(curve.mjd, curve.table, "x", color="#777777", label="table")
    above.errorbar(
        curve.mjd, ours, curve.error / compared.njy_per_unit, fmt="o", ms=4, label="forced"
    )
    above.set_ylabel("light [table's unit]")
    above.legend()
    for axis, x, label in (
        (below, curve.mjd, "MJD TAI"),
        (by_seeing, curve.seeing_px, "seeing [px]"),
    ):
        axis.plot(x, 100 * compared.deviation, "o", ms=4, label="as measured")
        axis.plot(x, 100 * compared.without_seeing, ".", ms=4, label="less a parabola in seeing")
        axis.axhspan(-5, 5, color="#DDDDDD", zorder=0)
        axis.set_ylim(-20, 20)
        axis.set_ylabel("deviation [%]")
        axis.set_xlabel(label)
    below.legend()
    for axis in (above, below):
        axis.ticklabel_format(useOffset=False)
    return figure


def scatter(values: Floats) -> float:
    """Robust standard deviation about zero."""
    return float(SIGMA_PER_MAD * np.median(np.abs(values)))


def _clipped_fit(columns: Floats, values: Floats) -> Floats:
    """Least squares without the values farther than CLIP_SIGMA from it."""
    kept = np.ones(values.size, bool)
    for _ in range(10):
        solution = np.linalg.lstsq(columns[kept], values[kept], rcond=None)[0]
        off = values - columns @ solution
        now = np.abs(off) <= CLIP_SIGMA * scatter(off[kept])
        if np.array_equal(now, kept):
            break
        kept = now
    result: Floats = solution
    return result
