"""Frames calibrated elsewhere go through the same chain as raw ones."""

from pathlib import Path

import numpy as np
from astropy.io import fits
from support.processed import VISITS, promptdia

from promptdia.pipeline.io.fits import read_exposure
from promptdia.pipeline.io.parquet import read_array
from promptdia.pipeline.repository import Repository
from promptdia.tasks.model.exposure import ScienceExposure
from promptdia.tasks.model.mask import mask_header
from promptdia.tasks.resampling import RESAMPLED

VISIT, DETECTOR = VISITS[0], 0


def _as_delivered(source: Path, destination: Path) -> None:
    """The contract's form: IMAGE, MASK and VARIANCE in counts with PHOTZP, another bit order."""
    with fits.open(source) as hdus:
        header = hdus[0].header
        card = fits.Header(header, copy=True)
        for gone in ("CALSCALE", "CALERR"):
            del card[gone]
        card["BUNIT"], card["PHOTZP"] = "adu", 31.4 - 2.5 * np.log10(2.0)
        bits = {k[3:]: bit for k, bit in mask_header().items()}
        swapped = {name: 20 - bit for name, bit in bits.items()}
        ours = hdus["MASK"].data
        theirs = np.zeros_like(ours)
        for name, bit in bits.items():
            theirs |= np.where(ours >> bit & 1, 1 << swapped[name], 0).astype(np.int32)
        names = fits.Header({f"HIERARCH MP_{name}": bit for name, bit in swapped.items()})
        planes = [
            fits.PrimaryHDU(header=card),
            fits.ImageHDU(hdus["IMAGE"].data / 2, name="IMAGE"),
            fits.ImageHDU(theirs, header=names, name="MASK"),
            fits.ImageHDU(hdus["VARIANCE"].data / 4, name="VARIANCE"),
        ]
        fits.HDUList(planes).writeto(destination)


def test_a_calibrated_frame_gives_the_alerts_of_its_raw_frame(
    processed: Path, fresh: Path, tmp_path: Path
) -> None:
    calexp = processed / "products" / str(VISIT) / str(DETECTOR) / "calexp.fits"
    delivered = tmp_path / "delivered.fits"
    _as_delivered(calexp, delivered)
    (fresh / "raw" / str(VISIT) / f"{DETECTOR}.fits").unlink()
    assert promptdia("ingest", fresh, delivered, "--as", "calexp").status == 0
    done = promptdia("visit", fresh, VISIT, "--detector", DETECTOR, "--json")
    assert done.status == 0, done.err
    # its noise was looked at, and is white
    repository = Repository(fresh)
    kept = repository.product(VISIT, DETECTOR, "calexp.fits")
    notes = read_exposure(kept, repository.detector(DETECTOR), ScienceExposure).notes
    assert 0.0 <= float(notes[RESAMPLED]) < 0.1
    where = Path("products") / str(VISIT) / str(DETECTOR) / "dia_sources.parquet"
    raw, adopted = read_array(processed / where), read_array(fresh / where)
    bright = raw[np.abs(raw["snr"]) > 8]
    assert bright.size
    for source in bright:
        apart = np.hypot(adopted["x"] - source["x"], adopted["y"] - source["y"])
        same = adopted[np.argmin(apart)]
        assert apart.min() < 0.3
        assert abs(same["psfFlux"] - source["psfFlux"]) < 3 * source["psfFluxErr"]
