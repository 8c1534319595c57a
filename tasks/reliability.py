"""How likely each detection is a real change of the sky."""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np

from promptdia.apdb.schema.lsst import DIA_SOURCE, REJECTED
from promptdia.tasks.forest import BadModel, Forest
from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.model.exposure import DifferenceExposure, ScienceExposure, TemplateExposure
from promptdia.tasks.reliability_features import FEATURES, reliability_features

MODEL_FILE = "reliability.npz"


@dataclass(frozen=True, slots=True)
class ReliabilityConfig:
    """Whether to score, and what is good enough."""

    enabled: bool = True
    """Off: every source scores 1 under version "none", for gathering training data."""
    minimum: float = 0.5
    """Detections with a lower score are not alerted; Rubin's limit."""


class Judged(NamedTuple):
    """Scored detections on either side of the limit."""

    kept: Catalog
    """Rows of DIA_SOURCE."""
    rejected: Catalog
    """Rows of REJECTED, by the rule ``reliability``."""


@dataclass(frozen=True, slots=True)
class ScoreReliability:
    """Score detections with a forest of decision trees on their features."""

    config: ReliabilityConfig
    forest: Forest | None = None
    """None takes the model that ships with promptdia."""

    def run(
        self,
        sources: Catalog,
        difference: DifferenceExposure,
        science: ScienceExposure,
        template: TemplateExposure,
    ) -> Catalog:
        """The DIA_SOURCE rows with ``reliability`` (0 to 1) and ``reliabilityVersion`` set.

        The score is the probability of being real at the share of real detections that the
        model was trained with; its model card states it.
        """
        scored = sources.copy()
        if not self.config.enabled:
            scored["reliability"], scored["reliabilityVersion"] = 1.0, "none"
            return scored
        forest = self.forest or shipped_forest()
        forest.require_features(FEATURES)
        rows = reliability_features(sources, difference, science, template)
        scored["reliability"] = forest.probability(rows).astype(np.float32)
        scored["reliabilityVersion"] = forest.version
        return scored

    def split(self, scored: Catalog) -> Judged:
        """Scored DIA_SOURCE rows by the configured minimum; kept and rejected add up."""
        low = scored["reliability"] < self.config.minimum
        rejected = REJECTED.empty(int(low.sum()))
        for name in DIA_SOURCE.dtype.names or ():
            rejected[name] = scored[name][low]
        rejected["rule"], rejected["rule_limit"] = "reliability", self.config.minimum
        rejected["rule_value"] = rejected["reliability"]
        return Judged(scored[~low], rejected)


@cache
def shipped_forest() -> Forest:
    """The model in ``promptdia.tasks.data``; BadModel when it is missing or damaged."""
    path = files("promptdia.tasks.data").joinpath(MODEL_FILE)
    if not path.is_file():
        raise BadModel(f"promptdia.tasks.data has no {MODEL_FILE}; train one with scripts/training")
    return Forest.from_bytes(path.read_bytes())
