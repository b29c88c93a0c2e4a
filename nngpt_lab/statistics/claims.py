"""The claims table: what a paper says, what we measured, with interval, n and verdict.

The claims are data, in ``claims.toml`` of each paper's room, each with its source. A notebook hands over what it
measured; the verdict follows from the claim's own test by the rule below, never from a notebook's opinion:

``reproduced``       the claim's test holds over our whole interval
``not reproduced``   it fails over our whole interval
``inconclusive``     our interval holds both possibilities
``not tested``       nothing was measured; the note says why

Keys of a claim: ``grade`` is P (stated in the paper: abstract or page-referenced notes), C (read in the authors' code
or data) or I (inferred, never stated); ``test`` is ``equal`` (the paper's value lies inside our interval), ``at_least``
(our interval lies at or above it) or ``at_most``; ``untested`` names the reason why the recorded evidence alone cannot
decide it. A claim that a notebook measures needs none. ``n``, where it is known, is how many observations the paper's
value rests on; a share then gets a note of what it allows at that n. ``note`` is said whatever was measured.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from nngpt_lab.ground import paths
from nngpt_lab.ground.formatting import show, show_estimate
from nngpt_lab.ground.names import did_you_mean
from nngpt_lab.statistics.intervals import Estimate, wilson

TESTS = ("equal", "at_least", "at_most")
GRADES = ("P", "C", "I")
VERDICTS = ("reproduced", "not reproduced", "inconclusive", "not tested")
COLUMNS = ["claim_id", "paper", "claim", "unit", "test", "paper_value", "our_value", "ci_low", "ci_high", "n", "grade",
           "verdict", "note", "source"]  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """One row of ``claims.toml``; ``reason`` is the text behind its key ``untested``."""

    id: str
    paper: str
    claim: str
    value: float
    unit: str
    grade: str
    source: str
    test: str
    reason: str | None = None
    n: int | None = None
    note: str = ""

    def at_its_own_n(self) -> str:
        """What the paper's value allows at its own n, as a sentence for the note; empty unless it is a share."""
        if self.n is None or self.unit != "%":
            return ""
        allowed = wilson(self.value / 100 * self.n, self.n).scaled(100)
        return f"At n = {self.n} the paper's own value allows {allowed.low:.1f} to {allowed.high:.1f} %."


@dataclass(frozen=True)
class Measured:
    """What a notebook found for a claim, in the claim's unit, and what a reader should know of it.

    ``estimate`` None: not measured, but ``note`` adds to the reason why.
    """

    estimate: Estimate | None
    note: str = ""

    def noted(self, note: str) -> Measured:
        """The same with one more sentence."""
        return Measured(self.estimate, f"{self.note} {note}".strip())


def load_claims(package: Path = paths.PACKAGE) -> dict[str, Claim]:
    """All claims by id, paper by paper; a ValueError if a file contradicts its own rules."""
    claims: dict[str, Claim] = {}
    for file in sorted(package.glob("papers/*/claims.toml")):
        data = tomllib.loads(file.read_text(encoding="utf-8"))
        for row in data["claim"]:
            reason = data["reasons"][row.pop("untested")] if "untested" in row else None
            claim = Claim(**row, reason=reason)
            if claim.id in claims or claim.test not in TESTS or claim.grade not in GRADES:
                raise ValueError(f"{file}: {claim.id} is there twice or has an unknown test or grade")
            claims[claim.id] = claim
    return claims


def verdict(test: str, value: float, estimate: Estimate | None) -> str:
    """The verdict that a claim's test against a value gives for our interval.

    >>> verdict("at_least", 50, Estimate(55, 52, 58, 100)), verdict("at_least", 50, Estimate(55, 48, 62, 10))
    ('reproduced', 'inconclusive')
    >>> verdict("at_least", 50, None)
    'not tested'
    """
    if estimate is None or not estimate.n or not np.isfinite([estimate.value, estimate.low, estimate.high]).all():
        return "not tested"  # no data, no verdict: the interval of an empty sample holds every value
    if test == "equal":
        return "reproduced" if estimate.low <= value <= estimate.high else "not reproduced"
    holds = (estimate.low >= value, estimate.high >= value)
    if test == "at_most":
        holds = (estimate.high <= value, estimate.low <= value)
    return "reproduced" if holds[0] else "inconclusive" if holds[1] else "not reproduced"


def claims_table(papers: str, measured: dict[str, Measured]) -> pd.DataFrame:
    """The claims of ``papers`` (``"B"``, ``"BD"``) with what was measured; columns :data:`COLUMNS`.

    A claim with neither a measurement nor a reason for its absence is an error, and so is a measurement of no claim:
    a row cannot go missing by a slip of the keyboard.
    """
    claims = {key: claim for key, claim in load_claims().items() if claim.paper in papers}
    for key in measured:
        if key not in claims:
            raise ValueError(f"there is no claim {key!r} of paper {papers}: {did_you_mean(key, claims)}")
    rows = []
    for key, claim in claims.items():
        ours = measured.get(key, Measured(None))
        if ours.estimate is None and claim.reason is None:
            raise ValueError(f"claim {key!r} was not measured and claims.toml gives no reason why")
        notes = [claim.reason if ours.estimate is None else None, ours.note, claim.note, claim.at_its_own_n()]
        row = vars(claim) | {"claim_id": key, "paper_value": claim.value, "n": None}
        if ours.estimate:
            row |= ours.estimate.columns("our_value", "ci_low", "ci_high") | {"n": ours.estimate.n}
        row["verdict"] = verdict(claim.test, claim.value, ours.estimate)
        rows.append(row | {"note": " ".join(note for note in notes if note)})
    return pd.DataFrame(rows, columns=COLUMNS).astype({"n": "Int64"})


def readable(table: pd.DataFrame):
    """The claims table as a notebook shows it: the tested first, whole sentences, digits that the interval supports.

    Returns a pandas Styler with columns verdict, claim, claimed, ours, n, note.
    """
    bounds = {"at_least": "≥ ", "at_most": "≤ ", "equal": ""}
    rows = []
    for row in table.astype(object).where(table.notna(), "").to_dict("records"):
        value, interval = show_estimate(str(row["our_value"]), str(row["ci_low"]), str(row["ci_high"]), row["unit"])
        claimed = bounds[row["test"]] + show(str(row["paper_value"]), row["unit"])
        ours = f"{value} ({interval})" if interval else value
        rows.append((row["verdict"], row["claim"], claimed, ours, show(str(row["n"])), row["note"]))
    frame = pd.DataFrame(rows, columns=["verdict", "claim", "claimed", "ours", "n", "note"])
    frame = frame.sort_values("verdict", key=lambda column: column == "not tested", kind="stable")
    look = {"text-align": "left", "vertical-align": "top", "white-space": "normal"}
    # a fixed id: pandas would draw a random one, and the executed notebook would differ from run to run
    return (
        frame.style.hide(axis="index")
        .set_uuid("claims")
        .set_properties(**look)
        .set_table_styles([{"selector": "th", "props": [("text-align", "left")]}])
    )
