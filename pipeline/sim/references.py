"""The reference catalogue a user would bring: stars to Gaia's depth, with its errors."""

import numpy as np

from promptdia.pipeline.sim.seeds import generator
from promptdia.pipeline.sim.sky import CATALOGUE_EPOCH_MJD
from promptdia.tasks.model.arrays import Bools, Catalog, Floats
from promptdia.tasks.model.catalogs import REFERENCE
from promptdia.tasks.model.photo_calib import mag_to_njy

DEPTH_MAG = 20.8
MISSING = 0.02
MISPLACED = 0.005
MISMEASURED = 0.01
VARIABLE_MAG = 0.2
"""Variables of less than this amplitude are not known as such and are listed."""


def reference_catalog(objects: Catalog, bands: tuple[str, ...], seed: int) -> Catalog:
    """REFERENCE rows made from the truth: positions at 2016.0, proper motions, fluxes.

    Position errors grow from 0.05 mas to 1 mas at the faint end, flux errors from 0.3 to
    2 %. A few stars are missing, a few entries are 0.5 to 3 arcsec or 0.5 mag off without
    their errors saying so.
    """
    rng = generator(seed, "references")
    stars = objects[_listed(objects)]
    stars = stars[rng.random(stars.size) >= MISSING]
    n = stars.size
    rows = REFERENCE.empty(n)
    rows["id"] = 10_000_000 + rng.permutation(n)
    rows["epochMjdTai"] = CATALOGUE_EPOCH_MJD
    error_mas = np.clip(0.05 * 10 ** (0.2 * (stars["r_mag"] - 15.0)), 0.05, 1.0)
    rows["raErr"] = rows["decErr"] = error_mas / 1000.0
    slip_mas = np.where(rng.random(n) < MISPLACED, rng.uniform(500.0, 3000.0, n), 0.0)
    angle = rng.uniform(0.0, 2.0 * np.pi, n)
    east = rng.normal(0.0, error_mas) + slip_mas * np.sin(angle)
    north = rng.normal(0.0, error_mas) + slip_mas * np.cos(angle)
    rows["ra"] = stars["ra"] + east / 3.6e6 / np.cos(np.deg2rad(stars["dec"]))
    rows["dec"] = stars["dec"] + north / 3.6e6
    rows["pmRa"] = np.nan_to_num(stars["pm_ra"]) + rng.normal(0.0, error_mas)
    rows["pmDec"] = np.nan_to_num(stars["pm_dec"]) + rng.normal(0.0, error_mas)
    wrong_mag = np.where(rng.random(n) < MISMEASURED, rng.normal(0.0, 0.5, n), 0.0)
    for band in bands:
        flux = mag_to_njy(stars[f"{band}_mag"] + wrong_mag)
        rows[f"{band}_flux"], rows[f"{band}_fluxErr"] = _measured(flux, stars["r_mag"], rng)
    return rows


def _listed(objects: Catalog) -> Bools:
    quiet = (objects["kind"] == "variable") & (objects["amplitude_mag"] < VARIABLE_MAG)
    star = (objects["kind"] == "star") | (quiet & (objects["host_id"] == 0))
    listed: Bools = star & (objects["r_mag"] < DEPTH_MAG)
    return listed


def _measured(flux: Floats, r_mag: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    relative = np.clip(0.003 * 10 ** (0.2 * (r_mag - 17.0)), 0.003, 0.02)
    return flux * (1.0 + rng.normal(0.0, relative)), flux * relative
