"""What must always hold in an APDB, as queries for the rows that break it."""

import sqlalchemy as sa

_COUNTED = (
    ("nDiaSources", "DiaSource", "sources"),
    ("nDiaForcedSources", "DiaForcedSource", "forced sources"),
    ("nRejected", "Ledger", "rejected detections"),
)

_INVARIANTS = {
    "source {} must have exactly one of diaObjectId and ssObjectId": """
        SELECT "diaSourceId" FROM "DiaSource"
        WHERE ("diaObjectId" IS NULL) = ("ssObjectId" IS NULL)""",
    "source {} belongs to an object that does not exist": """
        SELECT s."diaSourceId" FROM "DiaSource" s
        LEFT JOIN "DiaObject" o ON o."diaObjectId" = s."diaObjectId"
        WHERE s."diaObjectId" IS NOT NULL AND o."diaObjectId" IS NULL""",
    "forced source {} belongs to an object that does not exist": """
        SELECT f."diaForcedSourceId" FROM "DiaForcedSource" f
        LEFT JOIN "DiaObject" o ON o."diaObjectId" = f."diaObjectId"
        WHERE o."diaObjectId" IS NULL""",
    "forced source id {} occurs twice": """
        SELECT "diaForcedSourceId" FROM "DiaForcedSource"
        GROUP BY "diaForcedSourceId" HAVING count(*) > 1""",
    "object {} counts other sources than it has": """
        SELECT o."diaObjectId" FROM "DiaObject" o
        LEFT JOIN (SELECT "diaObjectId", count(*) AS n FROM "DiaSource"
                   WHERE "timeWithdrawnMjdTai" IS NULL GROUP BY "diaObjectId") s
        ON s."diaObjectId" = o."diaObjectId"
        WHERE o."nDiaSources" <> coalesce(s.n, 0)""",
    "object {} has no source": """
        SELECT o."diaObjectId" FROM "DiaObject" o
        LEFT JOIN "DiaSource" s ON s."diaObjectId" = o."diaObjectId"
        WHERE s."diaSourceId" IS NULL""",
    "object {} has other first and last times than its sources": """
        SELECT o."diaObjectId" FROM "DiaObject" o
        JOIN (SELECT "diaObjectId", min("midpointMjdTai") AS a, max("midpointMjdTai") AS b
              FROM "DiaSource" WHERE "timeWithdrawnMjdTai" IS NULL GROUP BY "diaObjectId") s
        ON s."diaObjectId" = o."diaObjectId"
        WHERE o."firstDiaSourceMjdTai" <> s.a OR o."lastDiaSourceMjdTai" <> s.b
           OR o."firstDiaSourceMjdTai" IS NULL OR o."lastDiaSourceMjdTai" IS NULL""",
    "Solar System object {} counts other sources than it has": """
        SELECT o."ssObjectId" FROM "SSObject" o
        LEFT JOIN (SELECT "ssObjectId", count(*) AS n FROM "SSSource" GROUP BY "ssObjectId") s
        ON s."ssObjectId" = o."ssObjectId"
        WHERE o."nObs" <> coalesce(s.n, 0)""",
    "the Solar System circumstances of {} are of no source": """
        SELECT c."diaSourceId" FROM "SSSource" c
        LEFT JOIN "DiaSource" s ON s."diaSourceId" = c."diaSourceId"
        WHERE s."ssObjectId" IS NULL OR s."ssObjectId" <> c."ssObjectId" """,
    "object {} got two sources from one visit-detector": """
        SELECT "diaObjectId" FROM "DiaSource" WHERE "diaObjectId" IS NOT NULL
        GROUP BY "diaObjectId", visit, detector HAVING count(*) > 1""",
    "source {} is of a visit-detector that is not done": """
        SELECT s."diaSourceId" FROM "DiaSource" s
        LEFT JOIN "VisitDetector" v
        ON v.visit = s.visit AND v.detector = s.detector AND v.status = 'done'
        WHERE v.visit IS NULL""",
    "source {} has no alert in the outbox": """
        SELECT s."diaSourceId" FROM "DiaSource" s
        LEFT JOIN "Outbox" o ON o."diaSourceId" = s."diaSourceId"
        WHERE o."diaSourceId" IS NULL""",
    "alert {} is of no source": """
        SELECT o."diaSourceId" FROM "Outbox" o
        LEFT JOIN "DiaSource" s ON s."diaSourceId" = o."diaSourceId"
        WHERE s."diaSourceId" IS NULL""",
    "alert {} is being sent, but nothing says from where on": """
        SELECT o."diaSourceId" FROM "Outbox" o
        LEFT JOIN "Sending" s ON s.topic = o.topic
        WHERE o.state = 'sending' AND s.topic IS NULL""",
    "object {} was merged into another and is still there": """
        SELECT o."diaObjectId" FROM "DiaObject" o
        WHERE o."diaObjectId" IN (SELECT "diaObjectId" FROM "Merged")""",
    "object {} was merged into one that does not exist": """
        SELECT m."diaObjectId" FROM "Merged" m
        LEFT JOIN "DiaObject" o ON o."diaObjectId" = m."mergedInto"
        WHERE o."diaObjectId" IS NULL""",
    "detection {} was both rejected and alerted": """
        SELECT l.id FROM "Ledger" l JOIN "DiaSource" s ON s."diaSourceId" = l.id""",
    **{
        f"visit {{}} has a detector that counts other {words} than it has": f"""
        SELECT v.visit FROM "VisitDetector" v
        LEFT JOIN (SELECT visit, detector, count(*) AS n FROM "{table}"
                   GROUP BY visit, detector) r
        ON r.visit = v.visit AND r.detector = v.detector
        WHERE v."{column}" <> coalesce(r.n, 0)"""
        for column, table, words in _COUNTED
    },
}


def broken_invariants(connection: sa.Connection) -> list[str]:
    """One sentence for each invariant that does not hold, with an example and the number."""
    broken = []
    for sentence, offenders in _INVARIANTS.items():
        count = f"SELECT count(*), min(x.id) FROM ({_named(offenders)}) AS x"
        n, example = connection.exec_driver_sql(count).one()
        if n:
            others = f", and {n - 1} more" if n > 1 else ""
            broken.append(sentence.format(example) + others)
    return broken


def _named(query: str) -> str:
    """The query with its one column called id."""
    return f"WITH found(id) AS ({query}) SELECT id FROM found"
