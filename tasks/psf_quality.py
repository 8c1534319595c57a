"""How well a PSF model describes the stars."""

from dataclasses import replace

import numpy as np

from promptdia.tasks.kernels.moments import COLUMNS, measure_moments
from promptdia.tasks.model.arrays import Catalog, Floats
from promptdia.tasks.model.psf import FWHM_PER_SIGMA, Psf
from promptdia.tasks.psf_model import StarModel, with_order
from promptdia.tasks.psf_stars import StarStamps
from promptdia.tasks.robust import MAD_TO_SIGMA


def psf_quality(model: StarModel, judged: StarStamps, sources: Catalog) -> dict[str, float]:
    """The numbers of ``PsfFit.quality``; ``judged`` are stars that were not fitted."""
    fwhm = model.fwhm
    clean = np.where(model.stamps.good, model.stamps.data - model.other, model.star)
    observed, modelled = stamp_moments(clean, fwhm), stamp_moments(model.star, fwhm)
    fine = (observed[:, 7] > 0) & (modelled[:, 7] > 0)
    star, own = shape_numbers(observed[fine]), shape_numbers(modelled[fine])
    quality = {"nPsfStar": float(len(model.stamps)), "psfOrder": float(model.psf.order)}
    for name, a, b in zip(("E1", "E2", "Size"), star, own):
        quality[f"psfStarDelta{name}Median"], quality[f"psfStarDelta{name}Scatter"] = _spread(a - b)
    relative = (star[2] - own[2]) / own[2]
    quality["psfStarScaledDeltaSizeScatter"] = _spread(relative)[1]
    quality["psfChi2"] = float(np.median(model.chi2(0.0)))
    quality["heldOutFluxResidual"], quality["heldOutFluxScatter"] = _held_out(
        model, judged, sources
    )
    return quality


def stamp_moments(stamps: Floats, fwhm: float) -> Floats:
    """(n, COLUMNS) moments of stamps (n, size, size), about the middle pixel."""
    n, size, _ = stamps.shape
    strip = np.ascontiguousarray(stamps.reshape(n * size, size), np.float32)
    x = np.full(n, size // 2, float)
    y = np.arange(n) * size + size // 2.0
    out = np.empty((n, COLUMNS))
    dark = np.zeros_like(strip)
    sigma = fwhm / FWHM_PER_SIGMA
    measure_moments(strip, dark, dark > 0, x, y, sigma, size / 4.0, out)
    out[:, 1] -= y - size // 2
    return out


def psf_moments(psf: Psf, x: Floats, y: Floats, fwhm: float) -> Floats:
    """(n, COLUMNS) moments of the PSF at each position."""
    parts: list[Floats] = [
        stamp_moments(psf.stamps(x[k : k + 1000], y[k : k + 1000]), fwhm)
        for k in range(0, x.size, 1000)
    ]
    return np.concatenate(parts) if parts else np.empty((0, COLUMNS))


def shape_numbers(moments: Floats) -> tuple[Floats, Floats, Floats]:
    """e1, e2 and size of (n, COLUMNS) moments."""
    xx, yy, xy = moments[:, 4], moments[:, 5], moments[:, 6]
    return (xx - yy) / (xx + yy), 2 * xy / (xx + yy), np.sqrt((xx + yy) / 2)


def _held_out(model: StarModel, judged: StarStamps, sources: Catalog) -> tuple[float, float]:
    if len(judged) == 0:
        return float("nan"), float("nan")
    other = StarModel.start(judged, sources, model.psf, model.fwhm)
    for _ in range(2):
        other = other.refitted(0.01)
        other = _moved_freely(other)
    other = other.refitted(0.01)
    left = other.residuals().sum((1, 2)) / other.flux
    chi2 = other.chi2(0.01)
    typical = chi2 <= 3.0 * np.median(chi2)
    return _spread(left[typical])


def _moved_freely(model: StarModel) -> StarModel:
    constant = replace(model, psf=with_order(model.psf, 0))
    moved = constant.recentred(0.01)
    return replace(moved, psf=model.psf)


def _spread(values: Floats) -> tuple[float, float]:
    """Median and robust scatter; nan without values."""
    if values.size == 0:
        return float("nan"), float("nan")
    middle = float(np.median(values))
    return middle, float(MAD_TO_SIGMA * np.median(np.abs(values - middle)))
