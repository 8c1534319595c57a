"""The subtractions that are compared: the noise-limited ideal, ours, and peers."""

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from lib.differencing_pair import DEPTH, READ_NOISE, SATURATION, SKY, Pair
from lib.differencing_score import Found, Result
from scipy import fft, ndimage

from promptdia.tasks.convolve import Tiles, VaryingFilter
from promptdia.tasks.decorrelate import Noise, decorrelate
from promptdia.tasks.detect import DetectConfig, DetectDiaSources
from promptdia.tasks.filter import FilterConfig, FilterDiaSources
from promptdia.tasks.measure import MeasureConfig, MeasureDiaSources
from promptdia.tasks.model.arrays import Floats, Image
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.model.mask import MaskPlane, has
from promptdia.tasks.model.wcs import FitsWcs, nominal_wcs
from promptdia.tasks.residual_sky import residual_sky
from promptdia.tasks.subtract import SubtractConfig, Subtraction, SubtractTemplate
from promptdia.tasks.warp import warp

RATIO = 0.97
KERNEL_SIDE = 25
NODES = 9
"""Along each axis, at which the true kernel is computed."""


class Absent(Exception):
    """The peer cannot run here; says why."""


def subtract(pair: Pair) -> Subtraction:
    """Our subtraction with its default settings."""
    return SubtractTemplate(SubtractConfig()).run(pair.science, pair.template, pair.sources)


def find(pair: Pair, made: Subtraction) -> Found:
    """What our chain keeps of our difference: detected, measured and not filtered out."""
    found = DetectDiaSources(DetectConfig()).run(made.difference, pair.science, made.matched)
    rows = MeasureDiaSources(MeasureConfig()).run(found, pair.science, made.matched)
    kept = FilterDiaSources(FilterConfig()).run(rows, 30.0)[0]
    return Found(kept["x"].astype(float), kept["y"].astype(float), ~kept["isNegative"])


def oracle(pair: Pair) -> Result:
    """True changes, and the noise that no method could avoid, whitened with the true kernel."""
    science_blurred = pair.kind.fwhm_template > pair.kind.fwhm_science
    psfs = pair.science.require_psf(), pair.template.require_psf()
    signal = pair.science_noise + pair.change

    def kernels(x: Floats, y: Floats) -> Floats:
        ours, theirs = (p.stamps(x, y) for p in psfs)
        if science_blurred:
            return true_kernels(ours, theirs)
        return true_kernels(theirs, ours) * RATIO

    own, one = _on_nodes(kernels, signal.shape), VaryingFilter.point()
    tiles = Tiles.around(signal.shape, KERNEL_SIDE // 2)
    scale = np.float32(RATIO if science_blurred else 1.0)
    if science_blurred:
        raw = tiles.convolve(signal, own) - pair.template_noise * scale
    else:
        raw = signal - tiles.convolve(pair.template_noise, own)
    white = decorrelate(
        raw, Noise(pair.science.variance, 0.0), Noise(pair.template.variance * scale**2, 0.0),
        (own, one) if science_blurred else (one, own), psfs[0],
    )  # fmt: skip
    return Result(white.image, white.variance, _masked(pair), white.psf)


def _on_nodes(kernels: Callable[[Floats, Floats], Floats], shape: tuple[int, int]) -> VaryingFilter:
    """Kernels known at NODES x NODES positions, bilinear between them."""
    x, y = (np.linspace(0, n - 1, NODES) for n in shape[::-1])
    grid_y, grid_x = (v.ravel() for v in np.meshgrid(y, x, indexing="ij"))

    def weights(at_x: Floats, at_y: Floats) -> Floats:
        along_x, along_y = (
            np.maximum(1 - np.abs(at[:, None] - nodes) / nodes[1], 0)
            for at, nodes in ((at_x, x), (at_y, y))
        )
        product: Floats = along_y[:, :, None] * along_x[:, None, :]
        return product.reshape(-1, NODES**2)

    return VaryingFilter(kernels(grid_x, grid_y), weights)


def true_kernels(sharp: Floats, blurred: Floats) -> Floats:
    """(n, k, k) kernels of unit sum that turn one PSF stamp into the other."""
    side = 2 * sharp.shape[-1]
    a, b = (fft.rfft2(np.asarray(s, float), (side, side)) for s in (sharp, blurred))
    ratio = b * np.conj(a) / (np.abs(a) ** 2 + 1e-6)
    kernel = np.roll(
        fft.irfft2(ratio, (side, side)), (KERNEL_SIDE // 2, KERNEL_SIDE // 2), axis=(-2, -1)
    )[..., :KERNEL_SIDE, :KERNEL_SIDE]
    unit: Floats = kernel / kernel.sum(axis=(-2, -1), keepdims=True)
    return unit


def photutils_kernel(pair: Pair) -> Result:
    """One kernel from the true PSFs at the middle (photutils), applied by FFT."""
    try:
        from photutils.psf_matching import SplitCosineBellWindow, make_kernel
    except ImportError as absent:
        raise Absent(f"photutils.psf_matching: {absent}") from None
    at = np.array([pair.change.shape[1] / 2.0])
    sharp, blurred = _by_seeing(pair)
    stamps = [e.require_psf().stamps(at, at)[0] for e in (sharp, blurred)]
    kernel = make_kernel(*stamps, window=SplitCosineBellWindow(0.35, 0.3))[None]
    kernel *= (RATIO if sharp is pair.template else 1 / RATIO) / kernel.sum()
    tiles = Tiles.around(pair.change.shape, kernel.shape[-1] // 2)
    everywhere = VaryingFilter.point().weights
    seen = tiles.convolve(sharp.image, VaryingFilter(kernel, everywhere))
    noise = tiles.convolve(sharp.variance, VaryingFilter(kernel**2, everywhere))
    image, variance = blurred.image - seen, blurred.variance + noise
    if blurred is pair.template:
        image, variance = -image * np.float32(RATIO), variance * np.float32(RATIO**2)
    image -= residual_sky(image, ~_masked(pair), 128).on_rows(slice(None))
    return Result(image, variance, _masked(pair), blurred.require_psf())


def hotpants(pair: Pair) -> Result:
    """HOTPANTS with its default kernel, if its program is on the path."""
    program = shutil.which("hotpants")
    if program is None:
        raise Absent("no program 'hotpants' on PATH (github.com/acbecker/hotpants)")
    sharp, blurred = _by_seeing(pair)
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        for name, exposure in (("science", pair.science), ("template", pair.template)):
            fits.writeto(at / f"{name}.fits", exposure.image + np.float32(SKY))
            fits.writeto(at / f"{name}_noise.fits", np.sqrt(exposure.variance))
            fits.writeto(at / f"{name}_mask.fits", (exposure.mask != 0).astype(np.int16))
        words = {
            "inim": "science.fits", "tmplim": "template.fits", "outim": "difference.fits",
            "ini": "science_noise.fits", "tni": "template_noise.fits", "oni": "noise.fits",
            "imi": "science_mask.fits", "tmi": "template_mask.fits", "omi": "mask.fits",
            "iu": 0.95 * SATURATION, "tu": 0.95 * SATURATION, "il": -500, "tl": -500,
            "ir": READ_NOISE, "tr": READ_NOISE / np.sqrt(DEPTH), "tg": DEPTH, "ig": 1,
            "n": "i", "c": "i" if sharp is pair.science else "t",
        }  # fmt: skip
        options = [str(w) for key, value in words.items() for w in (f"-{key}", value)]
        subprocess.run([program, *options], cwd=at, check=True, capture_output=True)
        image, noise = (
            fits.getdata(at / f"{name}.fits").astype(np.float32) for name in ("difference", "noise")
        )
        bad = fits.getdata(at / "mask.fits") != 0
    bad |= noise <= 0
    return Result(image, np.where(bad, np.inf, noise**2), bad, blurred.require_psf())


def sfft_numpy(pair: Pair) -> Result:
    """SFFT on the CPU, its kernel of half width 6, everything but catalogue sources masked."""
    try:
        from sfft.CustomizedPacket import Customized_Packet
    except ImportError as absent:
        raise Absent(f"sfft: {absent}") from None
    _, blurred = _by_seeing(pair)
    seen = np.zeros(pair.change.shape, bool)
    usable = pair.sources[~pair.sources["flag_saturated"]]
    seen[np.rint(usable["y"]).astype(int), np.rint(usable["x"]).astype(int)] = True
    seen = ndimage.binary_dilation(seen, ndimage.generate_binary_structure(2, 1), 12)
    seen &= ~ndimage.binary_dilation(_masked(pair), ndimage.generate_binary_structure(2, 1), 12)
    with tempfile.TemporaryDirectory() as folder:
        at = {name: f"{folder}/{name}.fits" for name in ("REF", "SCI", "mREF", "mSCI", "DIFF")}
        for name, exposure in (("SCI", pair.science), ("REF", pair.template)):
            fits.writeto(at[name], exposure.image)
            fits.writeto(at[f"m{name}"], np.where(seen, exposure.image, np.float32(0)))
        # it reports to standard output, which belongs to the benchmark
        with contextlib.redirect_stdout(sys.stderr):
            Customized_Packet.CP(
                FITS_REF=at["REF"], FITS_SCI=at["SCI"], FITS_mREF=at["mREF"], FITS_mSCI=at["mSCI"],
                ForceConv="SCI" if blurred is pair.template else "REF", FITS_DIFF=at["DIFF"],
                GKerHW=6, KerPolyOrder=2, BGPolyOrder=2, ConstPhotRatio=False,
                BACKEND_4SUBTRACT="Numpy", NUM_CPU_THREADS_4SUBTRACT=2, VERBOSE_LEVEL=0,
            )  # fmt: skip
        image = fits.getdata(at["DIFF"]).astype(np.float32)
    variance = pair.science.variance + np.float32(RATIO**2) * pair.template.variance
    return Result(image, variance, _masked(pair), blurred.require_psf())


PEERS: dict[str, Callable[[Pair], Result]] = {
    "photutils kernel": photutils_kernel,
    "HOTPANTS": hotpants,
}


def _by_seeing(pair: Pair) -> tuple[Exposure, Exposure]:
    """The sharper image, and the other."""
    if pair.kind.fwhm_template > pair.kind.fwhm_science:
        return pair.science, pair.template
    return pair.template, pair.science


def _masked(pair: Pair) -> np.ndarray:
    masked: np.ndarray = has(pair.science.mask | pair.template.mask, MaskPlane.SAT)
    return masked


def warp_template(pair: Pair, side: int) -> Exposure:
    """The template on a grid turned by half a degree."""
    return warp(pair.template, _turned(pair), (side, side))


def reproject_template(pair: Pair, side: int) -> Image:
    """Its image alone, by reproject."""
    from reproject import reproject_interp

    source = pair.template.image, pair.template.wcs.wcs
    image: Image = reproject_interp(
        source, _turned(pair).wcs, shape_out=(side, side), order="bicubic", return_footprint=False
    )
    return image


def _turned(pair: Pair) -> FitsWcs:
    visit = replace(pair.template.visit, rotation_deg=0.5)
    return nominal_wcs(visit, pair.template.detector)
