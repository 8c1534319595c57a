"""Association of real LSSTComCam sources against LSST's own."""

import numpy as np
from astropy.table import Table
from support.data import data_dir

from promptdia.apdb.schema.lsst import DIA_FORCED_SOURCE, DIA_OBJECT, DIA_SOURCE
from promptdia.tasks.associate import AssociateConfig, AssociateSources
from promptdia.tasks.model.arrays import Catalog, Ints
from promptdia.tasks.summarize import SummarizeObjects


def comcam_sources() -> tuple[Catalog, Ints]:
    """1480 DIASources near the ECDFS in time order, and the objects LSST gave them."""
    table = Table.read(data_dir("lsst_comcam_diasources") / "diasources.ecsv")
    table.sort("midpointMjdTai")
    rows = DIA_SOURCE.empty(len(table))
    for name in ("visit", "detector", "band", "midpointMjdTai", "ra", "dec", "raErr", "decErr"):
        rows[name] = np.ma.filled(table[name], np.nan if rows[name].dtype.kind == "f" else 0)
    rows["diaSourceId"] = np.arange(len(table)) + 1
    return rows, np.asarray(table["diaObjectId"], np.int64)


def associate_all(sources: Catalog, radius_arcsec: float) -> Ints:
    """Our object of each source, visit by visit, positions renewed from all before."""
    task = AssociateSources(AssociateConfig(radius_arcsec=radius_arcsec))
    objects, history = DIA_OBJECT.empty(), DIA_SOURCE.empty()
    for visit in np.unique(sources["visit"]):
        for detector in np.unique(sources["detector"][sources["visit"] == visit]):
            new = sources[(sources["visit"] == visit) & (sources["detector"] == detector)]
            found = task.run(new, objects)
            history = np.concatenate([history, found.sources])
            objects = SummarizeObjects().run(found.objects, history, DIA_FORCED_SOURCE.empty())
    return history["diaObjectId"][np.argsort(history["diaSourceId"])]


def pairs_in(*labels: Ints) -> int:
    """Number of pairs of sources that agree in every labelling."""
    _, n = np.unique(np.stack(labels, axis=1), axis=0, return_counts=True)
    return int((n * (n - 1) // 2).sum())


def test_objects_are_those_of_lsst_at_half_an_arcsecond() -> None:
    sources, lsst = comcam_sources()
    ours = associate_all(sources, radius_arcsec=0.5)
    together = pairs_in(ours, lsst)
    assert pairs_in(lsst) > 5000
    assert together / pairs_in(lsst) >= 0.995  # pair completeness
    assert together / pairs_in(ours) >= 0.995  # pair purity
