"""PSF models on stars that they were not fitted on: ours, and Piff's PixelGrid on the same."""

import time

import numpy as np
from lib.fields import Field, calibrated, standard
from lib.results import Checks, Rows, verdict
from lib.truths import true_stamps

from promptdia.tasks.calibrate import FLUX_COLUMNS, CalibrateConfig, Calibrated
from promptdia.tasks.model.arrays import Catalog, Floats
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.model.psf import Psf
from promptdia.tasks.psf import FitPsf
from promptdia.tasks.psf_photometry import shift_stamps
from promptdia.tasks.psf_quality import shape_numbers, stamp_moments
from promptdia.tasks.psf_stars import StarStamps, cut_stamps, select_stars

HELD_OUT = 5
"""One star in so many is kept from the fit."""
BRIGHT_SNR = 100.0
ENOUGH_JUDGED = 25
"""With fewer held-out stars the model's own error at a few of them decides."""
ENOUGH_FITTED = 100
"""With fewer, Piff is given a lower order, and constant costs decide."""


def checks(seed: int, quick: bool) -> tuple[Checks, Rows]:
    """Flux, size and shape of held-out stars; time of the fit."""
    field, done = standard(seed, quick)[0], calibrated(seed, quick)[0]
    exposure, sources = _in_electrons(done)
    config = CalibrateConfig().psf
    chosen = select_stars(
        sources, exposure.shape, config.min_snr, config.max_stars, config.wanted_isolated
    )
    judged = chosen[2::HELD_OUT]
    seen = np.setdiff1d(np.arange(sources.size), judged)
    start = time.process_time()
    fit = FitPsf(config).run(exposure, sources[seen])
    ours_s = time.process_time() - start
    size = fit.psf.size
    used = seen[fit.used]
    stamps = cut_stamps(exposure, sources, judged, size)
    ours = judge(fit.psf, stamps, exposure, sources, field)
    rows: Rows = [{"what": "PSF promptdia", "seconds": ours_s, "stars": int(used.size), **ours}]
    results: Checks = []
    for name, value, needed in (
        ("psf held-out flux residual", abs(ours["flux"]), "<= 0.003"),
        ("psf held-out size bias", abs(ours["size"]), "<= 0.002"),
        ("psf held-out ellipticity rms", ours["e_rms"], "<= 0.003"),
    ):
        found = verdict(name, value, needed, len(stamps), ENOUGH_JUDGED, "held-out stars")
        results, rows = results + found[0], rows + found[1]
    try:
        from lib import piff_oracle
    except ImportError as absent:
        return results, [*rows, {"what": "PSF Piff PixelGrid", "reason": str(absent)}]
    given = cut_stamps(exposure, sources, used, size)
    start = time.process_time()
    order = 1 if quick else int(fit.quality["psfOrder"])
    x, y = sources["x"][used], sources["y"][used]
    oracle = piff_oracle.fit(given, x, y, exposure.shape, order)
    theirs_s = time.process_time() - start
    theirs = judge(oracle, stamps, exposure, sources, field)
    rows.append(
        {"what": "PSF Piff PixelGrid", "seconds": theirs_s, "stars": int(used.size), **theirs}
    )
    ratio = ours_s / theirs_s
    found = verdict("psf time over Piff's", ratio, "<= 0.02", int(used.size), ENOUGH_FITTED)
    return results + found[0], rows + found[1]


def judge(
    psf: Psf, stamps: StarStamps, exposure: Exposure, sources: Catalog, field: Field
) -> dict[str, float]:
    """How a model describes the held-out stars.

    flux: what a fit leaves of a bright star, relative, median; size and e_rms: the model's
    size (relative, mean) and ellipticity (rms per component) against the PSF that was drawn,
    at the places of the held-out stars.
    """
    x, y = sources["x"][stamps.index], sources["y"][stamps.index]
    model = psf.stamps(x, y)
    snr = sources["psfFlux"][stamps.index] / sources["psfFluxErr"][stamps.index]
    bright = (snr > BRIGHT_SNR) & ~sources["flag_blended"][stamps.index]
    left = _left(stamps.take(bright), model[bright], x[bright], y[bright])
    sigma = float(np.median(sources["fwhm"][stamps.index]))
    e1, e2, width = shape_numbers(stamp_moments(model, sigma))
    truth = true_stamps(field.psf, x, y, stamps.data.shape[1])
    true_e1, true_e2, true_width = shape_numbers(stamp_moments(truth, sigma))
    shape = np.concatenate([e1 - true_e1, e2 - true_e2])
    return {
        "fwhm_px": sigma,
        "judged": float(len(stamps)),
        "bright": float(bright.sum()),
        "flux": float(np.median(left)),
        "flux_error": float(1.2533 * 1.4826 * _mad(left) / np.sqrt(left.size)),
        "size": float(np.mean(width / true_width - 1)),
        "e_rms": float(np.sqrt(np.mean(shape**2))),
    }


def _left(stamps: StarStamps, model: Floats, x: Floats, y: Floats) -> Floats:
    """(n,) light that a fit of flux and position leaves in the stamp, over the star's flux."""
    dx, dy = x - stamps.x, y - stamps.y
    weight = stamps.good / stamps.sky_variance[:, None, None]
    for _ in range(3):
        star = shift_stamps(model, dx, dy)
        slope_y, slope_x = np.gradient(star, axis=(1, 2))
        terms = np.stack([star, -slope_x, -slope_y], axis=1)
        normal = np.einsum("kapq,kbpq,kpq->kab", terms, terms, weight, optimize=True)
        right = np.einsum("kapq,kpq->ka", terms, weight * stamps.data)
        flux, mx, my = np.linalg.solve(normal, right[:, :, None])[:, :, 0].T
        dx, dy = dx + np.clip(mx / flux, -0.2, 0.2), dy + np.clip(my / flux, -0.2, 0.2)
        dx, dy = np.clip(dx, -1, 1), np.clip(dy, -1, 1)
    residual = np.where(stamps.good, stamps.data - flux[:, None, None] * star, 0.0)
    left: Floats = residual.sum(axis=(1, 2)) / flux
    return left


def _mad(values: Floats) -> float:
    return float(np.median(np.abs(values - np.median(values))))


def _in_electrons(done: Calibrated) -> tuple[Exposure, Catalog]:
    """The calibrated image and its sources before the scale to nJy, without PSF."""
    scale = np.float32(done.science.photo_calib.njy_per_count)
    exposure = done.science.replace(
        image=done.science.image / scale, variance=done.science.variance / scale**2, psf=None
    )
    sources = done.sources.copy()
    for column in FLUX_COLUMNS:
        sources[column] /= scale
    return exposure, sources
