"""Foreign FITS headers in promptdia's terms, by the rules of the instrument's YAML."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from astropy.coordinates import Angle
from astropy.io.fits import Header
from astropy.time import Time

from promptdia.pipeline.errors import InputError
from promptdia.pipeline.instrument import HeaderRule, Instrument
from promptdia.pipeline.io.fits import VISIT_CARDS
from promptdia.tasks.model.visit import Visit

OWN_CARDS = {name: card for card, name in VISIT_CARDS.items()}
STANDARD = {
    "visit": HeaderRule(key="VISIT"),
    "detector": HeaderRule(key="DETECTOR", default=0),
    "band": HeaderRule(key="BAND"),
    "mjd_mid": HeaderRule(key="MJD-AVG"),
    "exposure_s": HeaderRule(key="EXPTIME"),
    "ra": HeaderRule(key="BORE-RA"),
    "dec": HeaderRule(key="BORE-DEC"),
    "rotation": HeaderRule(key="BORE-ROT", default=0.0),
    "airmass": HeaderRule(key="AIRMASS", default=1.0),
    "reason": HeaderRule(key="OBSREASN", default=""),
    "target": HeaderRule(key="TARGET", default=""),
    "kind": HeaderRule(key="IMGKIND", default="raw"),
    "camera": HeaderRule(key="CAMERA", default=""),
    "sequence": HeaderRule(key="SEQNUM"),
    "photzp": HeaderRule(key="PHOTZP"),
}
"""Where promptdia looks when the instrument says nothing."""
_WHOLE = ("visit", "detector", "sequence")
_TEXT = ("kind", "camera", "band", "reason", "target")


@dataclass(frozen=True)
class Translator:
    """Reads quantities from one file's header."""

    instrument: Instrument
    header: Header
    path: Path

    def get(self, quantity: str) -> Any:
        """The value; an InputError names file, card and remedy when it is absent."""
        rule = self.instrument.header.get(quantity) or STANDARD.get(quantity)
        if rule is None:
            raise InputError(f"{self.path}: the instrument does not say where {quantity} stands")
        found = self._find(rule)
        if found is None:
            raise InputError(
                f"{self.path} has no {rule.key or rule.filename} ({quantity}); add the card or "
                f"give header.{quantity} in the YAML of instrument {self.instrument.name}"
            )
        return self._convert(quantity, rule, found)

    def has(self, quantity: str) -> bool:
        """Whether the value can be had."""
        rule = self.instrument.header.get(quantity) or STANDARD.get(quantity)
        return rule is not None and self._find(rule) is not None

    def visit(self) -> Visit:
        """The visit this file belongs to."""
        exposure: float = self.get("exposure_s")
        if not exposure >= 0:
            raise InputError(f"{self.path}: exposure time is {exposure} s, must not be negative")
        mid = self.midpoint(exposure)
        return Visit(
            id=self._visit_id(mid),
            band=self.get("band"),
            mjd_tai=mid,
            exposure_s=exposure,
            ra_deg=self.get("ra"),
            dec_deg=self.get("dec"),
            rotation_deg=self.get("rotation"),
            airmass=self.get("airmass"),
            observation_reason=self.get("reason"),
            target_name=self.get("target"),
        )

    def midpoint(self, exposure: float) -> float:
        """Middle of the exposure, MJD TAI."""
        if self.has("mjd_mid"):
            return float(self.get("mjd_mid"))
        if "mjd_start" in self.instrument.header:
            return float(self.get("mjd_start")) + exposure / 2 / 86400
        if "DATE-AVG" in self.header:
            return float(Time(self.header["DATE-AVG"], format="isot", scale="tai").mjd)
        return float(self.get("mjd_mid"))

    def _visit_id(self, mid: float) -> int:
        if self.has("visit"):
            return int(self.get("visit"))
        if "sequence" not in self.instrument.header and "SEQNUM" not in self.header:
            raise InputError(
                f"{self.path} has no VISIT (visit); add the card, or give header.visit or "
                f"header.sequence in the YAML of instrument {self.instrument.name}"
            )
        day = Time(mid - 0.5, format="mjd", scale="tai").strftime("%Y%m%d")
        return int(day) * 100_000 + int(self.get("sequence"))

    def _find(self, rule: HeaderRule) -> Any:
        if rule.value is not None:
            return rule.value
        if rule.filename is not None:
            match = re.search(rule.filename, self.path.name)
            return match.group(1) if match else rule.default
        parts = [self.header.get(k.strip()) for k in (rule.key or "").split("+")]
        if any(part is None for part in parts):
            return rule.default
        return "T".join(str(p) for p in parts) if len(parts) > 1 else parts[0]

    def _convert(self, quantity: str, rule: HeaderRule, found: Any) -> Any:
        value = found.strip() if isinstance(found, str) else found
        if rule.map:
            try:
                return rule.map[str(value)]
            except KeyError:
                known = ", ".join(sorted(rule.map))
                raise InputError(
                    f"{self.path}: {quantity} is {value!r}, the instrument knows {known}"
                ) from None
        try:
            return _typed(quantity, rule, value)
        except (TypeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{self.path}: {quantity} is {value!r}: {reason}") from error


def _typed(quantity: str, rule: HeaderRule, value: Any) -> Any:
    """The value in the quantity's type: degrees, MJD TAI, number or text."""
    if quantity in ("ra", "dec") and isinstance(value, str):
        unit = rule.unit or ("hourangle" if quantity == "ra" else "deg")
        return float(Angle(value, unit=unit).deg)
    if quantity in ("mjd_start", "mjd_mid"):
        form = rule.unit or "mjd"
        time = float(value) if form == "mjd" else value
        return float(Time(time, format=form, scale=rule.scale).tai.mjd)
    if quantity in _WHOLE:
        return int(value)
    return str(value) if quantity in _TEXT else float(value)
