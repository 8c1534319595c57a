"""Every setting of the pipeline in one tree; defaults live beside the task they belong to."""

from dataclasses import dataclass, field
from typing import Any, Literal

from promptdia.pipeline.yaml import build
from promptdia.tasks.associate import AssociateConfig
from promptdia.tasks.calibrate import CalibrateConfig
from promptdia.tasks.detect import DetectConfig
from promptdia.tasks.filter import FilterConfig
from promptdia.tasks.forced import ForcedConfig
from promptdia.tasks.isr import IsrConfig
from promptdia.tasks.measure import MeasureConfig
from promptdia.tasks.package import PackageConfig
from promptdia.tasks.reliability import ReliabilityConfig
from promptdia.tasks.spikes import SpikeConfig
from promptdia.tasks.subtract import SubtractConfig
from promptdia.tasks.summarize import SummarizeConfig
from promptdia.tasks.template import CoaddConfig, TemplateConfig
from promptdia.tasks.template_inputs import SelectConfig


@dataclass(frozen=True)
class PipelineConfig:
    """One field per task, and the settings of the shell around them."""

    isr: IsrConfig = field(default_factory=IsrConfig)
    calibrate: CalibrateConfig = field(default_factory=CalibrateConfig)
    spikes: SpikeConfig = field(default_factory=SpikeConfig)
    select_template: SelectConfig = field(default_factory=SelectConfig)
    coadd: CoaddConfig = field(default_factory=CoaddConfig)
    template: TemplateConfig = field(default_factory=TemplateConfig)
    subtract: SubtractConfig = field(default_factory=SubtractConfig)
    detect: DetectConfig = field(default_factory=DetectConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    reliability: ReliabilityConfig = field(default_factory=ReliabilityConfig)
    associate: AssociateConfig = field(default_factory=AssociateConfig)
    forced: ForcedConfig = field(default_factory=ForcedConfig)
    summarize: SummarizeConfig = field(default_factory=SummarizeConfig)
    package: PackageConfig = field(default_factory=PackageConfig)
    calibration_validity_days: float = 60.0
    """A master calibration frame holds this long before and after its date."""
    alert_schema: Literal["10.0", "11.0", "11.1"] = "11.0"
    """Version of the alert packets."""
    strict_cutouts: bool = False
    """Cutouts have exactly the header cards of Rubin's: no CTYPE, so no celestial WCS."""


def load_pipeline(*layers: tuple[str, dict[str, Any]]) -> PipelineConfig:
    """Defaults overlaid with (where, settings) in order; an unknown key is refused by path."""
    merged: dict[str, Any] = {}
    for where, settings in layers:
        build(PipelineConfig, settings, where)
        merged = _overlay(merged, settings)
    return build(PipelineConfig, merged, "pipeline")


def _overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _overlay(result[key], value) if both else value
    return result
