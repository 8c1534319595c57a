"""The surveys that can be simulated: when, how deep, and what is in the sky.

Zero points and sky brightness are those of a 6.5 m class survey telescope with 30 s
exposures (about LSST's: 5 sigma at r = 24.6 in median seeing). The shipped surveys
observe in r only, which keeps their runs short; a Night may have any band of ugrizy.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Night:
    """The visits of one night, all in one band."""

    day_obs: int
    """yyyymmdd."""
    n_visits: int
    band: str = "r"
    template: bool = False
    """The visits are meant for templates."""
    seeing_arcsec: tuple[float, float] = (0.70, 1.20)
    """Range of the FWHM."""
    cadence_min: float = 35.0
    """Mean time between visits."""


@dataclass(frozen=True, slots=True)
class Population:
    """How much of what is in the sky; densities per square arcminute."""

    stars_to_21: float = 4.0
    """Stars brighter than r = 21."""
    star_slope: float = 0.20
    """d log10 N / d mag of the stars."""
    star_brightest: float = 13.5
    galaxies_to_24: float = 22.0
    """Galaxies brighter than r = 24."""
    galaxy_slope: float = 0.30
    """d log10 N / d mag of the galaxies."""
    galaxy_brightest: float = 16.0
    faintest: float = 25.3
    """Nothing static is rendered below this r magnitude."""
    galaxy_shapes: int = 40
    """How many different galaxy profiles there are."""
    hosted_supernovae: int = 0
    hostless_supernovae: int = 0
    variable_stars: int = 0
    active_nuclei: int = 0
    asteroids_per_night: int = 0
    trails_per_visit: float = 0.0
    """Mean number of fast movers with a visible trail."""
    satellites_per_visit: float = 0.0
    """Mean number of streaks that cross the field."""


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything but the seed that determines a simulated survey."""

    name: str
    instrument: str
    """Name of the instrument's YAML."""
    nights: tuple[Night, ...]
    """In time order."""
    population: Population
    ra_deg: float = 150.1
    dec_deg: float = -12.4
    dither_arcsec: float = 30.0
    """Largest offset of a visit's pointing on each axis."""
    rotation_deg: float = 3.0
    """Largest rotation of a visit, either sense."""
    exposure_s: float = 30.0
    transparency: tuple[float, float] = (0.85, 1.0)
    moonlight_mag: float = 0.7
    """The sky is up to this much brighter than dark."""
    distortion_arcsec: float = 0.6
    """Radial distortion at the corner of the field."""
    pointing_error_arcsec: float = 3.0
    """Standard deviation on each axis."""
    cosmic_rays: float = 0.25
    """Per second and million pixels."""
    psf_nodes: int = 2
    """Nodes per axis of the grid in which a detector's PSF varies bilinearly."""
    n_bias: int = 7
    n_dark: int = 5
    n_flat: int = 5
    dark_exposure_s: float = 120.0
    flat_electrons: float = 40_000.0
    zero_points: dict[str, float] = field(
        default_factory=lambda: {
            "u": 26.5, "g": 28.4, "r": 28.2, "i": 27.8, "z": 27.5, "y": 26.7
        }
    )  # fmt: skip
    """AB magnitude that gives one electron per second above the atmosphere."""
    dark_sky: dict[str, float] = field(
        default_factory=lambda: {
            "u": 23.0, "g": 22.3, "r": 21.2, "i": 20.5, "z": 19.6, "y": 18.6
        }
    )  # fmt: skip
    """AB magnitude per square arcsecond without the Moon."""

    @property
    def bands(self) -> tuple[str, ...]:
        """The bands observed, in the order of first use."""
        return tuple(dict.fromkeys(night.band for night in self.nights))


SURVEYS: dict[str, Survey] = {
    survey.name: survey
    for survey in (
        Survey(
            name="tiny",
            instrument="sim-tiny",
            nights=(
                Night(20260930, 3, template=True, seeing_arcsec=(0.75, 0.95)),
                Night(20261110, 3, seeing_arcsec=(0.75, 1.1)),
            ),
            population=Population(
                stars_to_21=9.0,
                star_brightest=14.5,
                galaxies_to_24=15.0,
                faintest=24.7,
                galaxy_shapes=16,
                hosted_supernovae=12,
                hostless_supernovae=6,
                variable_stars=12,
                active_nuclei=2,
                asteroids_per_night=4,
                trails_per_visit=0.3,
                satellites_per_visit=0.3,
            ),
            dither_arcsec=6.0,
            rotation_deg=0.5,
            n_bias=5,
            n_dark=3,
            n_flat=3,
        ),
        Survey(
            name="small",
            instrument="sim-small",
            nights=(
                Night(20260930, 5, template=True, seeing_arcsec=(0.75, 1.0)),
                Night(20261110, 6),
                Night(20261112, 6),
            ),
            population=Population(
                hosted_supernovae=70,
                hostless_supernovae=25,
                variable_stars=70,
                active_nuclei=12,
                asteroids_per_night=16,
                trails_per_visit=1.0,
                satellites_per_visit=0.3,
            ),
        ),
        Survey(
            name="ccd4k",
            instrument="sim-ccd4k",
            nights=(
                Night(20260930, 3, template=True, seeing_arcsec=(0.70, 0.95)),
                Night(20261110, 2),
            ),
            population=Population(
                stars_to_21=2.2,
                galaxies_to_24=18.0,
                star_brightest=13.0,
                faintest=25.6,
                galaxy_shapes=64,
                hosted_supernovae=90,
                hostless_supernovae=30,
                variable_stars=90,
                active_nuclei=20,
                asteroids_per_night=20,
                trails_per_visit=1.0,
                satellites_per_visit=0.5,
            ),
            rotation_deg=1.0,
            cosmic_rays=0.1,
            psf_nodes=3,
            n_bias=5,
            n_dark=3,
            n_flat=3,
        ),
    )
}
