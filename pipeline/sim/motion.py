"""Where the simulated objects are and how bright, at any time."""

import numpy as np

from promptdia.pipeline.sim.sky import offset
from promptdia.tasks.model.arrays import Bools, Catalog, Floats
from promptdia.tasks.model.photo_calib import mag_to_njy

STATIC = ("star", "galaxy")


def present(objects: Catalog, mjd_tai: float) -> Bools:
    """Which objects are in the field of view's neighbourhood at all at that time."""
    near = np.abs(mjd_tai - objects["reference_mjd"]) <= objects["duration_d"] / 2
    here: Bools = near | np.isnan(objects["duration_d"])
    return here


def positions(objects: Catalog, mjd_tai: float) -> tuple[Floats, Floats]:
    """(ra, dec) in degrees at that time, by proper motion or motion of the object."""
    ra, dec = objects["ra"].copy(), objects["dec"].copy()
    elapsed = mjd_tai - objects["reference_mjd"]
    years = np.where(np.isnan(objects["pm_ra"]), 0.0, elapsed / 365.25)
    ra += np.nan_to_num(objects["pm_ra"]) * years / 3.6e6 / np.cos(np.deg2rad(dec))
    dec += np.nan_to_num(objects["pm_dec"]) * years / 3.6e6
    travelled = np.nan_to_num(objects["rate_arcsec_h"]) * elapsed * 24.0
    return offset(ra, dec, travelled, np.nan_to_num(objects["direction_deg"]))


def fluxes(objects: Catalog, band: str, mjd_tai: float) -> Floats:
    """Total flux in nJy at that time; per arcsec of trail for satellites."""
    flux = mag_to_njy(objects[f"{band}_mag"])
    elapsed = mjd_tai - objects["reference_mjd"]
    is_supernova = objects["kind"] == "supernova"
    rise, fall = objects["rise_d"][is_supernova], objects["fall_d"][is_supernova]
    flux[is_supernova] *= supernova_shape(elapsed[is_supernova], rise, fall)
    is_variable = objects["kind"] == "variable"
    rows = objects[is_variable]
    phase = elapsed[is_variable] / rows["period_d"]
    flux[is_variable] *= variable_shape(phase, rows["amplitude_mag"], rows["period_d"] < 1.0)
    return np.where(present(objects, mjd_tai), flux, 0.0)


def supernova_shape(days: Floats, rise_d: Floats, fall_d: Floats) -> Floats:
    """Flux relative to the peak, ``days`` after it: exp(-t/fall) / (1 + exp(-t/rise)).

    Bazin et al. 2009 (A&A 499, 653), equation 1, without the constant, with time
    counted from the maximum at t = rise ln(fall/rise - 1).
    """

    def shape(t: Floats) -> Floats:
        # written with negative exponents on either side, so that nothing overflows
        late = np.exp(-np.maximum(t, 0) / fall_d) / (1 + np.exp(-np.maximum(t, 0) / rise_d))
        early = np.minimum(t, 0) * (1 / rise_d - 1 / fall_d)
        both: Floats = np.where(
            t >= 0, late, np.exp(early) / (1 + np.exp(np.minimum(t, 0) / rise_d))
        )
        return both

    at_peak = rise_d * np.log(fall_d / rise_d - 1)
    relative: Floats = shape(days + at_peak) / shape(at_peak)
    return relative


def variable_shape(phase: Floats, amplitude_mag: Floats, sawtooth: Bools) -> Floats:
    """Flux relative to the mean magnitude's: a sine, or a fast rise and slow decline."""
    turn = phase % 1.0
    pulse = np.where(turn < 0.15, 0.5 - turn / 0.15, (turn - 0.15) / 0.85 - 0.5)
    fainter: Floats = np.where(sawtooth, pulse, 0.5 * np.sin(2 * np.pi * phase)) * amplitude_mag
    factor: Floats = 10 ** (-0.4 * fainter)
    return factor
