"""The mask planes, one table of bits under LSST's names."""

from enum import IntFlag

from promptdia.tasks.model.arrays import Bools, Mask


class MaskPlane(IntFlag):
    """One bit per plane; the bit number is the MP_* value written to FITS headers."""

    BAD = 1 << 0
    """Defect of the detector: dead, hot, bad column."""
    SAT = 1 << 1
    """Saturated or bled into."""
    INTRP = 1 << 2
    """Value interpolated from neighbours."""
    CR = 1 << 3
    """Cosmic ray."""
    EDGE = 1 << 4
    """Too near the border for the operation done."""
    DETECTED = 1 << 5
    """In the footprint of a positive detection."""
    DETECTED_NEGATIVE = 1 << 6
    """In the footprint of a negative detection."""
    SUSPECT = 1 << 7
    """Near saturation or otherwise doubtful."""
    NO_DATA = 1 << 8
    """No measurement at all."""
    STREAK = 1 << 9
    """On the track of a satellite or aeroplane."""
    SPIKE = 1 << 10
    """On a bright star's diffraction spike or bleed wing."""
    HIGH_VARIANCE = 1 << 11
    """Template much noisier here than elsewhere."""
    INJECTED = 1 << 12
    """Synthetic source added to the science image."""
    SAT_TEMPLATE = 1 << 13
    """Saturated in the template."""
    INJECTED_TEMPLATE = 1 << 14
    """Synthetic source added to the template."""
    NEAR_BRIGHT = 1 << 15
    """In the residual halo of a bright star, where differences are not trusted."""


def mask_header() -> dict[str, int]:
    """FITS header cards ``MP_<plane>``: bit number, as LSST writes them."""
    return {f"MP_{plane.name}": plane.value.bit_length() - 1 for plane in MaskPlane}


def has(mask: Mask, planes: MaskPlane) -> Bools:
    """Where any of the planes is set; same shape as ``mask``."""
    found: Bools = (mask & planes.value) != 0
    return found
