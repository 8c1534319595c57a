"""The truth of one frame: every changing object on it, where and how bright."""

import numpy as np

from promptdia.pipeline.sim.camera import DARK_CURRENT
from promptdia.pipeline.sim.motion import STATIC
from promptdia.pipeline.sim.optics import MOFFAT_BETA, MOFFAT_RADIUS_PER_FWHM
from promptdia.pipeline.sim.scene import Frame, Placed, clip_trail
from promptdia.pipeline.sim.truth import TRUTH_EPOCH
from promptdia.tasks.model.arrays import Bools, Catalog
from promptdia.tasks.model.psf import FWHM_PER_SIGMA


def changing(objects: Catalog) -> Bools:
    """Which objects are not the same in every visit."""
    found: Bools = ~np.isin(objects["kind"], STATIC)
    return found


def frame_truth(frame: Frame, objects: Catalog) -> Catalog:
    """TRUTH_EPOCH rows of the changing objects whose true position lies on the detector.

    Supernovae and variables have a row in every visit, with flux 0 before the explosion;
    what moves has one where it is. A trail's row stands for its middle, and is left out
    when that is off the detector; a satellite's for the part of its streak on the detector.
    """
    placed = frame.place(objects[changing(objects)])
    streak = placed.objects["kind"] == "satellite"
    return np.concatenate(
        [_points(frame, placed.only(~streak)), _streaks(frame, placed.only(streak))]
    )


def sky_noise_njy(frame: Frame) -> float:
    """Error of a PSF fit against sky, dark current and read noise, nJy.

    Noise-equivalent area of a Moffat, pi r^2 (2 beta - 1) / (beta - 1)^2, with the pixel's
    width added in quadrature.
    """
    detector = frame.detector
    fwhm_px = frame.conditions.fwhm_arcsec / detector.pixel_scale_arcsec
    fwhm2 = fwhm_px**2 + FWHM_PER_SIGMA**2 / 12.0
    area = np.pi * MOFFAT_RADIUS_PER_FWHM**2 * fwhm2
    area *= (2 * MOFFAT_BETA - 1) / (MOFFAT_BETA - 1) ** 2
    dark = DARK_CURRENT * frame.conditions.visit.exposure_s
    per_pixel = frame.sky_electrons + dark + detector.read_noise**2
    return float(np.sqrt(area * per_pixel) / frame.electrons_per_njy)


def _points(frame: Frame, placed: Placed) -> Catalog:
    detector = frame.detector
    on = (placed.x >= -0.5) & (placed.x < detector.nx - 0.5)
    on &= (placed.y >= -0.5) & (placed.y < detector.ny - 0.5)
    placed = placed.only(on)
    rows = _rows(frame, placed)
    rows["x"], rows["y"], rows["flux_njy"] = placed.x, placed.y, placed.flux_njy
    rate = np.nan_to_num(placed.objects["rate_arcsec_h"])
    rows["trail_length_arcsec"] = rate * frame.conditions.visit.exposure_s / 3600.0
    rows["ra"], rows["dec"] = frame.wcs.pixel_to_sky(placed.x, placed.y)
    return rows


def _streaks(frame: Frame, placed: Placed) -> Catalog:
    ends = np.array(
        [
            clip_trail(frame.detector, placed.only(np.arange(placed.x.size) == n), 0.0)
            for n in range(placed.x.size)
        ]
    ).reshape(-1, 2)
    crosses = ends[:, 1] > ends[:, 0]
    placed, ends = placed.only(crosses), ends[crosses]
    middle, share = ends.sum(axis=1) - 1.0, ends[:, 1] - ends[:, 0]
    rows = _rows(frame, placed)
    rows["x"], rows["y"] = placed.x + middle * placed.dx, placed.y + middle * placed.dy
    rows["ra"], rows["dec"] = frame.wcs.pixel_to_sky(rows["x"], rows["y"])
    scale = frame.detector.pixel_scale_arcsec
    length = 2.0 * np.hypot(placed.dx, placed.dy) * share * scale
    rows["trail_length_arcsec"], rows["flux_njy"] = length, length * placed.flux_njy
    return rows


def _rows(frame: Frame, placed: Placed) -> Catalog:
    visit = frame.conditions.visit
    rows = TRUTH_EPOCH.empty(placed.x.size)
    for name in ("truth_id", "kind", "host_id"):
        rows[name] = placed.objects[name]
    rows["visit"], rows["detector"], rows["band"] = visit.id, frame.detector.id, visit.band
    rows["mjd_tai"], rows["sky_noise_njy"] = visit.mjd_tai, sky_noise_njy(frame)
    rows["trail_angle_deg"] = np.nan_to_num(placed.objects["direction_deg"])
    return rows
