"""Piff's PixelGrid fitted on given stars of an exposure: the oracle for PSF models."""

import galsim
import numpy as np
import piff

from promptdia.tasks.model.arrays import Floats
from promptdia.tasks.psf_stars import StarStamps

VERSION = piff.__version__
MARGIN = 4
"""The grid is smaller than the stamps by so much, for stars that are not centred on a pixel."""


class PiffPsf:
    """Centred stamps of a Piff model, as ``promptdia.tasks.model.psf.Psf`` gives them."""

    def __init__(self, model: piff.PSF, size: int) -> None:
        self.model, self.size = model, size

    def stamps(self, x: Floats, y: Floats) -> Floats:
        """(n, size, size) of unit sum."""
        drawn = [
            self.model.draw(x=float(px), y=float(py), center=True, stamp_size=self.size).array
            for px, py in zip(x, y)
        ]
        stamps = np.stack(drawn).astype(float)
        unit: Floats = stamps / stamps.sum(axis=(1, 2), keepdims=True)
        return unit


def fit(stamps: StarStamps, x: Floats, y: Floats, shape: tuple[int, int], order: int) -> PiffPsf:
    """PixelGrid, one model pixel per pixel, of stars centred near (x, y).

    As Piff wants it, weights are those of the sky alone; masked pixels have weight 0.
    """
    size = stamps.data.shape[1]
    half = size // 2
    # coordinates between -1 and 1: Piff's polynomials are powers
    middle = galsim.PositionD((shape[1] - 1) / 2, (shape[0] - 1) / 2)
    scale = 2.0 / max(shape)
    wcs = galsim.OffsetWCS(scale, origin=middle)
    stars = []
    for k in range(len(stamps)):
        corner = {"xmin": int(stamps.x[k]) - half, "ymin": int(stamps.y[k]) - half}
        image = galsim.Image(stamps.data[k].astype(np.float64), wcs=wcs, **corner)
        weight = galsim.Image(stamps.good[k] / stamps.sky_variance[k], wcs=wcs, **corner)
        position = galsim.PositionD(float(x[k]), float(y[k]))
        stars.append(piff.Star(piff.StarData(image, image_pos=position, weight=weight), None))
    model = piff.PixelGrid(scale=scale, size=size - MARGIN, interp=galsim.Lanczos(7))
    psf = piff.SimplePSF(
        model,
        piff.BasisPolynomial(order=order),
        outliers=[piff.ChisqOutliers(nsigma=20.0, max_remove=0.05)],
        max_iter=20,
    )
    psf.set_context(wcs={0: wcs}, pointing=None)
    psf.fit(stars)
    return PiffPsf(psf, size)
