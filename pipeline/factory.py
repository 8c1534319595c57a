"""The composition root: the one page that knows how every task is made."""

from dataclasses import dataclass

from promptdia.pipeline.config import PipelineConfig
from promptdia.tasks.associate import AssociateSources
from promptdia.tasks.calibrate import CalibrateImage
from promptdia.tasks.detect import DetectDiaSources
from promptdia.tasks.filter import FilterDiaSources
from promptdia.tasks.forced import ForcedPhotometry
from promptdia.tasks.isr import RemoveSignature
from promptdia.tasks.measure import MeasureDiaSources
from promptdia.tasks.package import PackageAlerts
from promptdia.tasks.reliability import ScoreReliability
from promptdia.tasks.spikes import MarkSpikes
from promptdia.tasks.subtract import SubtractTemplate
from promptdia.tasks.summarize import SummarizeObjects
from promptdia.tasks.template import BuildCoadd, MakeTemplate


@dataclass(frozen=True, slots=True)
class Tasks:
    """One of each, ready to run. To change a step, replace its field."""

    remove_signature: RemoveSignature
    calibrate: CalibrateImage
    mark_spikes: MarkSpikes
    coadd: BuildCoadd
    make_template: MakeTemplate
    subtract: SubtractTemplate
    detect: DetectDiaSources
    measure: MeasureDiaSources
    filter: FilterDiaSources
    score: ScoreReliability
    associate: AssociateSources
    summarize: SummarizeObjects
    force: ForcedPhotometry
    package: PackageAlerts


def make_tasks(config: PipelineConfig) -> Tasks:
    """Every task with its settings."""
    return Tasks(
        remove_signature=RemoveSignature(config.isr),
        calibrate=CalibrateImage(config.calibrate),
        mark_spikes=MarkSpikes(config.spikes),
        coadd=BuildCoadd(config.coadd),
        make_template=MakeTemplate(config.template),
        subtract=SubtractTemplate(config.subtract),
        detect=DetectDiaSources(config.detect),
        measure=MeasureDiaSources(config.measure),
        filter=FilterDiaSources(config.filter),
        score=ScoreReliability(config.reliability),
        associate=AssociateSources(config.associate),
        summarize=SummarizeObjects(config.summarize),
        force=ForcedPhotometry(config.forced),
        package=PackageAlerts(config.package),
    )
