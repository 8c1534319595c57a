"""Small triplets of images with real changes and the artefacts that imitate them."""

from dataclasses import dataclass

import numpy as np

from promptdia.apdb.schema.lsst import DIA_SOURCE
from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.model.exposure import DifferenceExposure, ScienceExposure, TemplateExposure
from promptdia.tasks.model.psf import constant_psf, gaussian_stamp
from promptdia.tasks.model.visit import Detector, Visit
from promptdia.tasks.model.wcs import nominal_wcs

SIDE, SIGMA_PSF, NOISE = 400, 1.8, 10.0
VISIT = Visit(2026010200001, "r", 61042.1, 30.0, 150.0, 2.0)
DETECTOR = Detector(0, "d0", SIDE, SIDE, 0.2, ())
BOGUS = ("dipole", "hot_pixel", "wrong_psf", "column", "noise")


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A subtraction and what was found on it."""

    sources: Catalog
    difference: DifferenceExposure
    science: ScienceExposure
    template: TemplateExposure
    kind: np.ndarray
    """(n,) "positive", "negative" or one of BOGUS."""

    @property
    def real(self) -> np.ndarray:
        return ~np.isin(self.kind, BOGUS)


def change_scene(rng: np.random.Generator, n: int = 80) -> Scene:
    """Half of the n sources are real, of both signs, alone or on a star; S/N 6 to 60."""
    n_side = int(np.ceil(np.sqrt(n)))
    step = SIDE / n_side
    cell = np.arange(n)
    x = (cell % n_side + 0.5) * step + rng.uniform(-3, 3, n)
    y = (cell // n_side + 0.5) * step + rng.uniform(-3, 3, n)
    kind = np.where(
        cell % 2 == 0, rng.choice(["positive", "negative"], n), rng.choice(BOGUS, n)
    ).astype("U12")
    static, change = np.zeros((SIDE, SIDE)), np.zeros((SIDE, SIDE))
    flux = NOISE * np.sqrt(4 * np.pi) * SIGMA_PSF * np.exp(rng.uniform(np.log(6), np.log(60), n))
    for i in range(n):
        on_star = kind[i] in ("dipole", "wrong_psf") or rng.random() < 0.5
        if on_star or kind[i] == "negative":
            static += _star(x[i], y[i], max(flux[i] * rng.uniform(1.5, 5), flux[i]))
        change += _artefact(rng, str(kind[i]), x[i], y[i], flux[i])
    noise = rng.normal(0, NOISE, (2, SIDE, SIDE)) / np.sqrt(2)
    image = change + noise[0] - noise[1]
    return Scene(_measure(x, y, image), *_exposures(image, static, noise, change), kind)


def _star(x: float, y: float, flux: float, sigma: float = SIGMA_PSF) -> np.ndarray:
    along = np.arange(SIDE)
    profile = np.outer(*(np.exp(-0.5 * ((along - v) / sigma) ** 2) for v in (y, x)))
    return flux * profile / (2 * np.pi * sigma**2)


def _artefact(rng, kind: str, x: float, y: float, flux: float) -> np.ndarray:
    if kind == "positive":
        return _star(x, y, flux)
    if kind == "negative":
        return _star(x, y, -flux)
    out = np.zeros((SIDE, SIDE))
    if kind == "dipole":
        dx, dy = rng.normal(0, 0.7, 2)
        return _star(x + dx, y + dy, 3 * flux) - _star(x - dx, y - dy, 3 * flux)
    if kind == "wrong_psf":
        return _star(x, y, 4 * flux, 0.8 * SIGMA_PSF) - _star(x, y, 4 * flux)
    if kind == "hot_pixel":
        out[round(y), round(x)] = 0.4 * flux
    if kind == "column":
        out[:, round(x)] = 0.04 * flux
        out[: max(int(y) - 25, 0)] = out[int(y) + 25 :] = 0.0
    return out


def _measure(x: np.ndarray, y: np.ndarray, image: np.ndarray) -> Catalog:
    """The few columns that features read, from the brightest of sums around the position."""
    stamp = gaussian_stamp(SIGMA_PSF, 15)
    rows = DIA_SOURCE.empty(len(x))
    rows["x"], rows["y"] = x, y
    for i in range(len(x)):
        column, row = round(x[i]), round(y[i])
        cut = image[row - 7 : row + 8, column - 7 : column + 8]
        flux, error = (cut * stamp).sum() / (stamp**2).sum(), NOISE / np.sqrt((stamp**2).sum())
        rows["psfFlux"][i], rows["psfFluxErr"][i], rows["snr"][i] = flux, error, abs(flux) / error
        rows["psfChi2"][i] = (((cut - flux * stamp) / NOISE) ** 2).sum()
        rows["psfNdata"][i] = cut.size
        rows["isNegative"][i] = flux < 0
    return rows


def _exposures(image, static, noise, change):
    def of(role, pixels, variance):
        return role(
            pixels.astype(np.float32),
            np.zeros(pixels.shape, np.int32),
            np.full(pixels.shape, variance, np.float32),
            nominal_wcs(VISIT, DETECTOR),
            VISIT,
            DETECTOR,
            constant_psf(gaussian_stamp(SIGMA_PSF, 25)),
        )

    return (
        of(DifferenceExposure, image, NOISE**2),
        of(ScienceExposure, static + change + noise[0], NOISE**2 / 2),
        of(TemplateExposure, static + noise[1], NOISE**2 / 2),
    )
