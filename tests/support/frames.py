"""Small simulated frames for tests of single tasks: a detector, stars, cosmic-ray tracks."""

import numpy as np

from promptdia.tasks.model.arrays import Floats, Image
from promptdia.tasks.model.exposure import Exposure, RawFrame
from promptdia.tasks.model.visit import Amplifier, Box, Detector, Visit
from promptdia.tasks.model.wcs import nominal_wcs

READ_NOISE = 8.0
GAIN = 1.5
BIAS = 1000.0
SATURATION = 60_000.0


def make_visit(exposure_s: float = 30.0, band: str = "r", sequence: int = 1) -> Visit:
    """A visit on 2025-01-01."""
    return Visit(2025010100000 + sequence, band, 60676.1, exposure_s, 150.0, 2.0)


def one_amplifier(ny: int, nx: int, overscan: int = 0) -> Detector:
    """A detector read by one amplifier, its overscan to the right of the data."""
    data = Box(0, nx, 0, ny)
    scan = Box(nx, nx + overscan, 0, ny) if overscan else None
    amplifier = Amplifier(data, data, scan, GAIN, READ_NOISE, SATURATION)
    return Detector(0, "one", nx, ny, 0.2, (amplifier,))


def make_raw(pixels: Image, detector: Detector, visit: Visit | None = None) -> RawFrame:
    """A raw frame with the nominal WCS."""
    visit = visit or make_visit()
    return RawFrame(pixels.astype(np.float32), visit, detector, nominal_wcs(visit, detector))


def make_exposure(image: Image, variance: float | Image) -> Exposure:
    """An exposure in electrons with nothing masked."""
    detector = one_amplifier(*image.shape)
    visit = make_visit()
    return Exposure(
        image.astype(np.float32),
        np.zeros(image.shape, np.int32),
        np.broadcast_to(np.asarray(variance, np.float32), image.shape).copy(),
        nominal_wcs(visit, detector),
        visit,
        detector,
    )


def draw_stars(
    shape: tuple[int, int], x: Floats, y: Floats, flux: Floats, fwhm: float, beta: float = 3.5
) -> Floats:
    """(ny, nx) light of Moffat stars, averaged over 3 x 3 points of each pixel."""
    image = np.zeros(shape)
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    norm = (beta - 1) / (np.pi * alpha**2)
    for xs, ys, f in zip(x, y, flux):
        half = int(fwhm * (4 if f < 1e4 else 12)) + 4
        x0, y0 = round(float(xs)), round(float(ys))
        a, b = max(0, x0 - half), min(shape[1], x0 + half + 1)
        c, d = max(0, y0 - half), min(shape[0], y0 + half + 1)
        for dy in (-1 / 3, 0, 1 / 3):
            for dx in (-1 / 3, 0, 1 / 3):
                r2 = (np.arange(c, d)[:, None] + dy - ys) ** 2 + (
                    np.arange(a, b)[None] + dx - xs
                ) ** 2
                image[c:d, a:b] += f * norm / 9 * (1 + r2 / alpha**2) ** -beta
    return image


def draw_tracks(shape: tuple[int, int], n: int, rng: np.random.Generator) -> Floats:
    """(ny, nx) electrons of n straight cosmic-ray tracks, charge diffused by 0.3 px rms.

    Lengths are exponential with mean 12 px, electrons per pixel of length log-normal
    around 1000; one in five is a worm that turns by 10 degrees rms per pixel.
    """
    image = np.zeros(shape)
    for _ in range(n):
        length = 1.0 + rng.exponential(12.0)
        rate = 1000.0 * np.exp(0.6 * rng.normal())
        angle = rng.uniform(0, np.pi)
        turn = np.deg2rad(10.0) if rng.uniform() < 0.2 else 0.0
        position = np.array([rng.uniform(0, shape[1] - 1), rng.uniform(0, shape[0] - 1)])
        for _ in range(int(length * 10)):
            angle += turn * rng.normal() * np.sqrt(0.1)
            position = position + 0.1 * np.array([np.cos(angle), np.sin(angle)])
            x, y = np.rint(position + 0.3 * rng.normal(size=2)).astype(int)
            if 0 <= x < shape[1] and 0 <= y < shape[0]:
                image[y, x] += 0.1 * rate
    return image
