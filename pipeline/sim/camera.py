"""A simulated CCD: expected light in, raw counts out, with all its flaws."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from promptdia.pipeline.sim.optics import focal_plane
from promptdia.pipeline.sim.seeds import generator
from promptdia.tasks.model.arrays import Floats, Image, Ints
from promptdia.tasks.model.visit import Amplifier, Detector

ADC_MAX = 65_535.0
HOT_PER_MPX = 100
DEAD_PER_MPX = 40
BAD_COLUMNS = 0.002
"""Share of the columns, and one more."""
DUST_PER_MPX = 5
DARK_CURRENT = 0.03
"""Electrons per second."""
VIGNETTING = 0.10
"""Loss at the corner of the field."""
ROWS = 256
"""Rows per block of random numbers: bounds the memory, not the result's meaning."""


@dataclass(frozen=True, slots=True, eq=False)
class Sensor:
    """What is fixed about one CCD."""

    detector: Detector
    response: Image
    """(ny, nx) sensitivity: vignetting, pixels, amplifiers, dust, dead pixels and columns."""
    dark_current: Image
    """(ny, nx) electrons per second; hot pixels and columns stand out."""
    bias: tuple[Image, ...]
    """Per amplifier, fixed structure over its data box, ADU."""
    bias_level: tuple[float, ...]
    """Per amplifier, ADU."""
    full_well: Image
    """(ny, nx) electrons above which charge bleeds along the column."""


def build_sensor(detector: Detector, radius_arcsec: float, seed: int) -> Sensor:
    """The CCD of that number in the camera of that seed."""
    rng = generator(seed, "sensor", detector.id)
    response, dark = _response(detector, radius_arcsec, rng), _dark(detector, rng)
    _add_bad_columns(response, dark, rng)
    levels = tuple(float(rng.uniform(900.0, 1300.0)) for _ in detector.amplifiers)
    full_well = np.zeros(detector.shape, np.float32)
    for amplifier, level in zip(detector.amplifiers, levels, strict=True):
        well = straightened(np.array(amplifier.saturation + 200.0 - level), amplifier.linearity)
        full_well[amplifier.target.slices] = well * amplifier.gain
    bias = tuple(_bias_structure(a, rng) for a in detector.amplifiers)
    return Sensor(detector, response, dark, bias, levels, full_well)


def collect(
    sensor: Sensor, light: Image | None, exposure_s: float, rng: np.random.Generator
) -> Image:
    """Electrons in each pixel after the exposure: Poisson of light x response and dark current.

    ``light`` is what would be detected with a response of one; None with a closed shutter.
    """
    electrons = np.empty(sensor.detector.shape, np.float32)
    for y in range(0, electrons.shape[0], ROWS):
        rows = slice(y, y + ROWS)
        expected = sensor.dark_current[rows].astype(float) * exposure_s
        if light is not None:
            expected += light[rows] * sensor.response[rows]
        electrons[rows] = rng.poisson(expected)
    return electrons


def bleed(electrons: Image, full_well: Image) -> Image:
    """Charge above full well spilt along its column, half each way, until it finds room.

    Charge is conserved but for what runs over the first and the last row.
    """
    columns = np.flatnonzero((electrons > full_well).any(axis=0))
    if columns.size == 0:
        return electrons
    charge, well = electrons[:, columns].astype(float), full_well[:, columns]
    excess = np.maximum(charge - well, 0.0)
    charge -= excess
    for rows in (range(charge.shape[0]), range(charge.shape[0] - 1, -1, -1)):
        carried = np.zeros(columns.size)
        for y in rows:
            carried += 0.5 * excess[y]
            taken = np.minimum(well[y] - charge[y], carried)
            charge[y] += taken
            carried -= taken
    spilt = electrons.copy()
    spilt[:, columns] = charge
    return spilt


def read_out(sensor: Sensor, electrons: Image, rng: np.random.Generator) -> Image:
    """(ny_raw, nx_raw) whole ADU as float32: what the electronics make of the charge.

    Bent response, crosstalk, overscan, bias, read noise and a converter that clips.
    """
    amplifiers, crosstalk = sensor.detector.amplifiers, sensor.detector.crosstalk
    boxes = [b for a in amplifiers for b in (a.data, a.overscan) if b is not None]
    raw = np.zeros((max(b.y1 for b in boxes), max(b.x1 for b in boxes)), np.float32)
    signals = [_signal(electrons, amplifier) for amplifier in amplifiers]
    for i, (amplifier, level, structure) in enumerate(
        zip(amplifiers, sensor.bias_level, sensor.bias, strict=True)
    ):
        step_y, step_x = -1 if amplifier.flip_y else 1, -1 if amplifier.flip_x else 1
        charge = signals[i] + structure[::step_y, ::step_x]
        for factor, signal in zip(crosstalk[i] if crosstalk else (), signals):
            charge = charge + np.float32(factor) * signal
        drift = _row_drift(charge.shape[0], level, rng)
        raw[amplifier.data.slices] = _digitise(charge, drift, amplifier, rng)
        if amplifier.overscan is not None:
            box = amplifier.overscan
            empty = np.zeros((box.y1 - box.y0, box.x1 - box.x0), np.float32)
            raw[box.slices] = _digitise(empty, drift, amplifier, rng)
    return raw


def straightened(adu: Floats, linearity: tuple[float, ...]) -> Floats:
    """What a signal above the overscan stands for, by the amplifier's coefficients."""
    return np.polynomial.Polynomial((0.0, 1.0, *linearity))(adu)


def bent(adu: Floats, linearity: tuple[float, ...]) -> Floats:
    """The inverse of ``straightened``, by Newton's method."""
    response = np.polynomial.Polynomial((0.0, 1.0, *linearity))
    slope, measured = response.deriv(), adu
    for _ in range(5):
        measured = measured - (response(measured) - adu) / slope(measured)
    return measured


def _signal(electrons: Image, amplifier: Amplifier) -> Image:
    """The charge of one amplifier in ADU, in the order in which it is read."""
    step_y, step_x = -1 if amplifier.flip_y else 1, -1 if amplifier.flip_x else 1
    signal = electrons[amplifier.target.slices][::step_y, ::step_x] / np.float32(amplifier.gain)
    if amplifier.linearity:
        signal = bent(signal.astype(float), amplifier.linearity).astype(np.float32)
    return signal


def _digitise(adu: Image, drift: Floats, amplifier: Amplifier, rng: np.random.Generator) -> Image:
    noise = rng.standard_normal(adu.shape, np.float32) * np.float32(
        amplifier.read_noise / amplifier.gain
    )
    counts: Image = np.rint(adu + noise + drift[:, None].astype(np.float32))
    return np.clip(counts, 0.0, ADC_MAX)


def _row_drift(n: int, level: float, rng: np.random.Generator) -> Floats:
    """The bias level row by row: a new offset every frame and a slow wander of one ADU."""
    wander = gaussian_filter1d(rng.normal(size=n + 200), 50.0)[100:-100]
    drift: Floats = level + rng.normal(0.0, 2.0) + wander / wander.std()
    return drift


def _bias_structure(amplifier: Amplifier, rng: np.random.Generator) -> Image:
    box = amplifier.target
    x = np.arange(box.x1 - box.x0)
    columns = rng.normal(0.0, 0.8, x.size) + rng.uniform(3.0, 8.0) * np.exp(-x / 30.0)
    structure: Image = np.repeat(columns[None, :], box.y1 - box.y0, axis=0).astype(np.float32)
    return structure


def _response(detector: Detector, radius_arcsec: float, rng: np.random.Generator) -> Image:
    y, x = np.ogrid[: detector.ny, : detector.nx]
    fx, fy = focal_plane(detector, x, y)
    distance2 = ((fx**2 + fy**2) / radius_arcsec**2).astype(np.float32)
    response: Image = 1.0 - np.float32(VIGNETTING) * distance2
    response *= 1.0 + np.float32(0.008) * rng.standard_normal(detector.shape, np.float32)
    for amplifier in detector.amplifiers:
        response[amplifier.target.slices] *= np.float32(rng.normal(1.0, 0.01))
    for _ in range(rng.poisson(DUST_PER_MPX * detector.nx * detector.ny / 1e6)):
        _add_dust(response, rng)
    dead = _pixels(detector, DEAD_PER_MPX, rng)
    response[dead] *= rng.uniform(0.0, 0.5, dead[0].size).astype(np.float32)
    return response


def _add_dust(response: Image, rng: np.random.Generator) -> None:
    """The shadow of one grain, out of focus: a soft ring."""
    ny, nx = response.shape
    cx, cy = rng.uniform(0, nx), rng.uniform(0, ny)
    outer, depth = rng.uniform(10.0, 22.0), rng.uniform(0.01, 0.05)
    y, x = np.ogrid[max(0, int(cy) - 30) : int(cy) + 31, max(0, int(cx) - 30) : int(cx) + 31]
    y, x = y[y[:, 0] < ny], x[:, x[0] < nx]
    r = np.hypot(x - cx, y - cy)
    ring = 1.0 / (1.0 + np.exp(r - outer)) - 0.8 / (1.0 + np.exp(r - 0.45 * outer))
    response[y[0, 0] : y[-1, 0] + 1, x[0, 0] : x[0, -1] + 1] *= 1.0 - depth * ring


def _dark(detector: Detector, rng: np.random.Generator) -> Image:
    dark = np.full(detector.shape, DARK_CURRENT, np.float32)
    hot = _pixels(detector, HOT_PER_MPX, rng)
    dark[hot] += 10 ** rng.uniform(0.3, 3.3, hot[0].size)
    return dark


def _pixels(detector: Detector, per_mpx: float, rng: np.random.Generator) -> tuple[Ints, Ints]:
    n = int(rng.poisson(per_mpx * detector.nx * detector.ny / 1e6))
    return rng.integers(0, detector.ny, n), rng.integers(0, detector.nx, n)


def _add_bad_columns(response: Image, dark: Image, rng: np.random.Generator) -> None:
    """From a random row to the far end of the column: blocked, or leaking charge."""
    ny, nx = response.shape
    for _ in range(1 + rng.poisson(BAD_COLUMNS * nx)):
        column, first = int(rng.integers(0, nx)), int(rng.integers(0, ny) * rng.integers(0, 2))
        if rng.random() < 0.6:
            response[first:, column] *= np.float32(rng.uniform(0.0, 0.6))
        else:
            dark[first:, column] += np.float32(10 ** rng.uniform(0.8, 2.0))
