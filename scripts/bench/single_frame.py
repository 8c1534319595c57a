"""From raw frame to calibrated exposure, against the truth and against libraries.

Simulates raw frames of one 4k x 4k detector (survey ccd4k; a 1k detector with --quick),
calibrates them, and compares PSF, positions, fluxes, pixels and time with what was drawn.
"""

import importlib

from lib.results import Checks, Rows, parser, publish

MODULES = ("psf", "astrometry", "photometry", "variants", "cosmic_rays", "background", "clock")
"""In ``lib``; each has ``checks(seed, quick)`` and returns (checks, rows)."""
PEERS = ("numpy", "numba", "astropy", "photutils", "astroscrappy", "Piff", "reproject", "galsim")


def main() -> None:
    """Print a table, or one JSON object."""
    arguments = parser(__doc__, "a 1k detector, fewer trials")
    arguments.add_argument("--only", nargs="+", choices=MODULES, default=list(MODULES))
    args = arguments.parse_args()
    checks: Checks = []
    rows: Rows = []
    for name in args.only:
        found = importlib.import_module(f"lib.{name}").checks(args.seed, args.quick)
        checks, rows = checks + found[0], rows + found[1]
    publish("single_frame", checks, rows, ("promptdia", *PEERS), args.json)


if __name__ == "__main__":
    main()
