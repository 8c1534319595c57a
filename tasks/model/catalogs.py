"""Catalogues that live between tasks: reference stars and the sources of one visit image.

DiaSource, DiaObject and DiaForcedSource come from promptdia.apdb.schema.
"""

from promptdia.apdb.schema.table import Column, TableSchema

BANDS = "ugrizy"

REFERENCE = TableSchema(
    "Reference",
    (
        Column("id", "long", description="identifier in its catalogue", nullable=False),
        Column("ra", "double", "deg", "ICRS right ascension at epoch", nullable=False),
        Column("dec", "double", "deg", "ICRS declination at epoch", nullable=False),
        Column("raErr", "float", "arcsec", "error of ra x cos(dec)"),
        Column("decErr", "float", "arcsec", "error of dec"),
        Column("pmRa", "float", "mas/yr", "proper motion in ra x cos(dec)"),
        Column("pmDec", "float", "mas/yr", "proper motion in dec"),
        Column("epochMjdTai", "double", "d", "epoch of the position"),
        *(
            column
            for band in BANDS
            for column in (
                Column(f"{band}_flux", "float", "nJy", f"flux in {band}"),
                Column(f"{band}_fluxErr", "float", "nJy", f"error of the flux in {band}"),
            )
        ),
    ),
)

SOURCE = TableSchema(
    "Source",
    (
        Column("id", "long", description="counter in the detector-visit", nullable=False),
        Column("x", "double", "pixel", "windowed centroid", nullable=False),
        Column("y", "double", "pixel", "windowed centroid", nullable=False),
        Column("xErr", "float", "pixel"),
        Column("yErr", "float", "pixel"),
        Column("ra", "double", "deg", "nan until the WCS is solved"),
        Column("dec", "double", "deg", "nan until the WCS is solved"),
        Column("psfFlux", "float", "count", "PSF flux; nJy after photometric calibration"),
        Column("psfFluxErr", "float", "count"),
        Column("apFlux", "float", "count", "aperture flux; nJy after photometric calibration"),
        Column("apFluxErr", "float", "count"),
        Column("ixx", "float", "pixel**2", "Gaussian-weighted second moment"),
        Column("iyy", "float", "pixel**2", "Gaussian-weighted second moment"),
        Column("ixy", "float", "pixel**2", "Gaussian-weighted second moment"),
        Column("fwhm", "float", "pixel", "of the circular Gaussian with the same area"),
        Column("peak", "float", "count", "highest pixel"),
        Column("extendedness", "float", "", "0 like the PSF, 1 wider"),
        Column("flag_saturated", "boolean", "", "touches a saturated pixel"),
        Column("flag_edge", "boolean", "", "cut by the border"),
        Column("flag_bad", "boolean", "", "touches a BAD, CR or NO_DATA pixel near its centre"),
        Column("flag_blended", "boolean", "", "a neighbour contributes to it"),
        Column("calib_psf_used", "boolean", "", "the PSF was fitted on it"),
        Column("calib_astrometry_used", "boolean", "", "the WCS was fitted on it"),
        Column("calib_photometry_used", "boolean", "", "the zero point was fitted on it"),
        Column("ref_id", "long", "", "id of the matched reference, 0 when none"),
    ),
)
