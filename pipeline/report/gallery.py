"""Which alerts to show: some of every kind, bright and faint, and some false ones."""

import numpy as np

from promptdia.pipeline.report.evidence import POINTS
from promptdia.pipeline.report.truth import Comparison

GOLDEN = 0.6180339887498949
"""Ranks in the order of their multiples of this, modulo 1, are spread evenly at any length."""


def choose(comparison: Comparison, number: int) -> list[int]:
    """At most ``number`` diaSourceIds, taking turns among the kinds and the false alerts.

    However few of a kind are taken, they are spread over its range of S/N.
    """
    alerts, snr = comparison.evidence.alerts, comparison.evidence.alerts["snr"]
    kind_of = np.array(["false"] * len(alerts), dtype="U12")
    kind_of[comparison.real] = comparison.evidence.epochs["kind"][comparison.truth[comparison.real]]
    groups = []
    for kind in (*POINTS, "trail", "false"):
        rows = np.nonzero(kind_of == kind)[0]
        rows = rows[np.lexsort((alerts["diaSourceId"][rows], -np.abs(snr[rows])))]
        golden = (np.arange(len(rows)) * GOLDEN) % 1.0
        groups.append(rows[np.argsort(golden, kind="stable")].tolist())
    taken: list[int] = []
    while any(groups) and len(taken) < number:
        taken += [group.pop(0) for group in groups if group]
    return [int(alerts["diaSourceId"][row]) for row in taken[:number]]
