"""What varies in the sky of the simulated alert stream, and when it is looked at.

Everything is a function of the seed and a place, so that a field that is visited again
tells the same story, one epoch longer, and nothing needs to be remembered.
"""

from dataclasses import dataclass
from datetime import date

import numpy as np

from promptdia.apdb.ids import visit_id
from promptdia.apdb.schema.lsst import BANDS
from promptdia.pipeline.sim.seeds import generator
from promptdia.tasks.model.arrays import Floats, Ints

FIELDS_PER_BLOCK = 20
"""The telescope goes through so many fields, then through the same again in another band."""
DETECTION_SNR = 5.0
DEPTH = dict(zip(BANDS, (420.0, 150.0, 180.0, 260.0, 420.0, 800.0)))
"""Typical error of a PSF flux by band, nJy: a visit of 30 s with an 8 m telescope."""
_BAND_SHARE = (0.06, 0.10, 0.22, 0.24, 0.20, 0.18)
_MJD_OF_ORDINAL_0 = -678576
_SLOT_S = 37.0


@dataclass(frozen=True, slots=True, eq=False)
class Field:
    """A pointing with all its epochs: a year before the night, then the two of the night."""

    number: int
    ra: float
    dec: float
    rotation_deg: float
    name: str
    reason: str
    visits: Ints
    """(m,) visit ids, in time order; the last two are of the night."""
    mjd: Floats
    """(m,) midpoints, TAI."""
    bands: np.ndarray
    """(m,) letters."""


@dataclass(frozen=True, slots=True, eq=False)
class LightCurves:
    """Difference fluxes of n objects at m epochs, as they would be measured."""

    flux: Floats
    """(n, m) nJy, noise included."""
    err: Floats
    """(n, m) nJy."""

    @property
    def detected(self) -> np.ndarray:
        """(n, m) where a source is found."""
        return np.abs(self.flux) >= DETECTION_SNR * self.err


def field_of_visit(seed: int, day_obs: int, index: int, cadence_s: float) -> tuple[Field, int]:
    """The field that visit ``index`` of a night looks at, and the epoch of it that this is."""
    block, within = divmod(index, 2 * FIELDS_PER_BLOCK)
    again, place = divmod(within, FIELDS_PER_BLOCK)
    first = block * 2 * FIELDS_PER_BLOCK + place
    tonight = [first, first + FIELDS_PER_BLOCK]
    field = _field(seed, day_obs, block * FIELDS_PER_BLOCK + place, tonight, cadence_s)
    return field, field.mjd.size - 2 + again


def light_curves(field: Field, n: int, rng: np.random.Generator) -> LightCurves:
    """n objects: six in ten vary periodically, a quarter are transients, the rest wander.

    Transients rise and fall as in Bazin et al. (2009, A&A 499, 653), equation 1.
    """
    mjd, m = field.mjd, field.mjd.size
    kind = rng.random(n)[:, None]
    period = np.where(
        kind < 0.6, 10 ** rng.uniform(-0.5, 2, (n, 1)), 10 ** rng.uniform(1.7, 2.8, (n, 1))
    )
    phase, phase2 = rng.uniform(0, 2 * np.pi, (2, n, 1))
    wave = np.sin(2 * np.pi * mjd / period + phase) + 0.5 * np.sin(
        2 * np.pi * mjd / (2.7 * period) + phase2
    )
    start = mjd[-1] - rng.uniform(2.0, 90.0, (n, 1))
    since = np.clip(mjd - start, -300.0, None)
    burst = 1.6 * np.exp(-np.clip(since, 0, None) / 40.0) / (1.0 + np.exp(-since / 1.5))
    shape = np.where((kind >= 0.6) & (kind < 0.85), burst, wave)
    peak_snr = np.exp(rng.normal(np.log(14.0), 0.9, (n, 1)))
    colour = np.exp(rng.normal(0.0, 0.25, (n, len(BANDS))))
    band = np.array([BANDS.index(b) for b in field.bands])
    typical = np.array(list(DEPTH.values()))[band]
    err = typical * np.exp(rng.normal(0.0, 0.15, m)) * np.ones((n, 1))
    flux = peak_snr * typical * colour[:, band] * shape
    return LightCurves(flux + err * rng.standard_normal((n, m)), err)


def night_start(day_obs: int) -> float:
    """MJD at which a night's first visit is: midnight UTC after noon of its day."""
    return _mjd(day_obs) + 1.0


def _field(seed: int, day_obs: int, number: int, tonight: list[int], cadence_s: float) -> Field:
    rng = generator(seed, "stream field", number)
    deep = number % FIELDS_PER_BLOCK == 0
    dec = np.rad2deg(np.arcsin(rng.uniform(-0.94, 0.05)))
    ra, rotation = rng.uniform(0, 360), rng.uniform(0, 360)
    # Forty nights with ten visits each in a deep field, else some twenty with two.
    n_nights, each = (40, 10) if deep else (int(rng.integers(8, 60)), 2)
    ago = np.sort(rng.choice(np.arange(3, 360), n_nights, replace=False))[::-1]
    days = np.repeat([_day_before(day_obs, int(a)) for a in ago], each)
    slot = FIELDS_PER_BLOCK * rng.integers(0, 45, n_nights)[:, None] + number % FIELDS_PER_BLOCK
    sequences = (1 + slot + 2 * FIELDS_PER_BLOCK * np.arange(each)).ravel()
    past = np.array([visit_id(int(d), int(s)) for d, s in zip(days, sequences)], np.int64)
    mjd = np.repeat(night_start(day_obs) - ago, each) + sequences * _SLOT_S / 86400
    now = night_start(day_obs) + np.array(tonight) * cadence_s / 86400
    bands = rng.choice(list(BANDS), past.size + 2, p=_BAND_SHARE)
    return Field(
        number,
        float(ra),
        float(dec),
        float(rotation),
        f"ddf_{number}, lowdust" if deep else f"field {number}",
        f"ddf_{number}" if deep else "wfd_pair",
        np.concatenate([past, [visit_id(day_obs, k + 1) for k in tonight]]),
        np.concatenate([mjd, now]),
        bands,
    )


def _mjd(day_obs: int) -> int:
    return _date(day_obs).toordinal() + _MJD_OF_ORDINAL_0


def _day_before(day_obs: int, days: int) -> int:
    day = date.fromordinal(_date(day_obs).toordinal() - days)
    return day.year * 10_000 + day.month * 100 + day.day


def _date(day_obs: int) -> date:
    return date(day_obs // 10_000, day_obs // 100 % 100, day_obs % 100)
