"""The tables of truth: what is in the simulated sky, and each changing object per frame."""

from promptdia.apdb.schema.table import Column, TableSchema
from promptdia.tasks.model.catalogs import BANDS

TRUTH_OBJECT = TableSchema(
    "TruthObject",
    (
        Column("truth_id", "long", description="positive, unique in the survey", nullable=False),
        Column(
            "kind",
            "char(10)",
            description="star galaxy supernova variable asteroid trail satellite",
            nullable=False,
        ),
        Column("ra", "double", "deg", "ICRS; at reference_mjd for what moves"),
        Column("dec", "double", "deg", "ICRS; at reference_mjd for what moves"),
        Column("host_id", "long", "", "truth_id of the galaxy it lies in, 0 when none"),
        Column("reference_mjd", "double", "d", "epoch of the position; peak or zero phase"),
        Column("duration_d", "float", "d", "exists only this long around reference_mjd"),
        Column("pm_ra", "float", "mas/yr", "proper motion in ra x cos(dec)"),
        Column("pm_dec", "float", "mas/yr", "proper motion in dec"),
        Column("rate_arcsec_h", "float", "arcsec/h", "motion on the sky"),
        Column("direction_deg", "float", "deg", "of the motion, north through east"),
        Column("period_d", "float", "d", "of a variable"),
        Column("amplitude_mag", "float", "mag", "peak to peak, of a variable"),
        Column("rise_d", "float", "d", "time scale of a supernova's rise"),
        Column("fall_d", "float", "d", "time scale of a supernova's decline"),
        Column("half_light_radius", "float", "arcsec", "of a galaxy"),
        Column("shape", "int", "", "of a galaxy: index of its profile"),
        *(
            Column(
                f"{band}_mag",
                "float",
                "mag",
                "AB; at peak for a supernova, mean for a variable, per arcsec of trail for a "
                "satellite",
            )
            for band in BANDS
        ),
    ),
)

TRUTH_EPOCH = TableSchema(
    "TruthEpoch",
    (
        Column("truth_id", "long", description="of the TruthObject", nullable=False),
        Column("kind", "char(10)", nullable=False),
        Column("visit", "long", nullable=False),
        Column("detector", "int", nullable=False),
        Column("band", "char(1)", nullable=False),
        Column("mjd_tai", "double", "d", "middle of the exposure"),
        Column("ra", "double", "deg", "ICRS at mid-exposure; middle of the streak on the detector"),
        Column("dec", "double", "deg", "ICRS at mid-exposure"),
        Column("x", "double", "pixel", "true position, 0-based"),
        Column("y", "double", "pixel", "true position, 0-based"),
        Column(
            "flux_njy", "double", "nJy", "total flux at that time; of a streak, on the detector"
        ),
        Column(
            "sky_noise_njy",
            "double",
            "nJy",
            "error of an ideal PSF fit against sky, dark and read noise in this frame",
        ),
        Column("trail_length_arcsec", "float", "arcsec", "0 for what does not move"),
        Column("trail_angle_deg", "float", "deg", "direction of motion, north through east"),
        Column("host_id", "long", "", "truth_id of the host galaxy, 0 when none"),
    ),
)
