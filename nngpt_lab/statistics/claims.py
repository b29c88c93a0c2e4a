"""The claims table: what a paper says, what we measured, with interval, n and verdict. Beside it the table of facts.

Both are data, in ``claims.toml`` of each paper's room, each with its source. A fact is only counted. A claim could have
come out otherwise; it is registered there, test, margin and n included, before the run that judges it. A notebook hands
over what it measured, and the verdict follows by the rule below, never from a notebook's opinion. It is a test of
equivalence (Schuirmann 1987; Lakens 2017): every claim has a ``margin``, the smallest difference that would matter.

``equal``       our value is the paper's within the margin
``comparator``  the same of what the paper compares itself with: an answerer's chance level, say
``effect``      there is an effect at least as large as the margin, above the value (mostly 0)
``at_least``    the value is reached but for the margin

``reproduced``        the test holds over our whole interval
``not reproduced``    it fails over our whole interval
``wrong comparator``  the same of a comparator: the paper's number stands, what it is compared with does not
``no effect``         our whole interval lies within the margin on both sides: evidence that there is none to speak of
``inconclusive``      our interval holds both possibilities, or there is none: one seed, say
``not yet run``       registered; the run that judges it (``awaits``) has not been made
``not tested``        cannot be (``untested`` says why), or too few units were measured

The claims of one table are a family: what an interval decides stands only if it does after Holm's correction.

Other keys of a claim: ``grade`` is P (stated in the paper: abstract or page-referenced notes), C (read in the authors'
code or data) or I (inferred, never stated). ``least`` of ``units`` is the n from which a measurement is judged. ``n``,
where it is known, is how many observations the paper's value rests on; a share then gets a note of what it allows at
that n. ``note`` is said whatever was measured. ``figure`` names the one of its notebook that shows it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests

from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.formatting import show, show_estimate
from nngpt_lab.ground.names import did_you_mean
from nngpt_lab.statistics.intervals import LEVEL, Estimate, wilson

TESTS = ("equal", "comparator", "effect", "at_least")
GRADES = ("P", "C", "I")
REPRODUCED, REFUTED, COMPARATOR, NO_EFFECT = "reproduced", "not reproduced", "wrong comparator", "no effect"
OPEN, WAITING, UNTESTED = "inconclusive", "not yet run", "not tested"
VERDICTS = (REPRODUCED, REFUTED, COMPARATOR, NO_EFFECT, OPEN, WAITING, UNTESTED)
DECIDED = VERDICTS[:4]
REGISTERED = ["claim", "test", "paper_value", "unit", "margin", "least", "units"]
"""Columns of a claims table that stood in ``claims.toml`` before the run."""
COLUMNS = ["claim_id", "paper", *REGISTERED, "our_value", "ci_low", "ci_high", "n", "p_holm", "grade", "verdict",
           "note", "source"]  # fmt: skip
FACT_COLUMNS = ["fact_id", "paper", "fact", "unit", "stated", "counted", "agrees", "grade", "note", "source"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One ``[[claim]]`` of ``claims.toml``; ``reason`` is the text behind its key ``awaits`` or ``untested``."""

    id: str
    paper: str
    claim: str
    value: float
    margin: float
    unit: str
    grade: str
    source: str
    test: str
    least: int
    units: str
    awaits: str | None = None
    untested: str | None = None
    reason: str = ""
    n: int | None = None
    note: str = ""
    figure: str = ""

    def __post_init__(self):
        if self.test not in TESTS or self.grade not in GRADES or self.margin <= 0 or self.least < 1:
            raise ValueError(f"{self.id} has an unknown test or grade, or no margin or n")

    @property
    def region(self) -> tuple[float, float]:
        """Where the true value lies if the claim's test holds, ends included."""
        low, high = self.value - self.margin, self.value + self.margin
        return (high if self.test == "effect" else low), (high if self.test in ("equal", "comparator") else np.inf)

    def at_its_own_n(self) -> str:
        """What the paper's value allows at its own n, as a sentence for the note; empty unless it is a share."""
        if self.n is None or self.unit != "%":
            return ""
        allowed = wilson(self.value / 100 * self.n, self.n).scaled(100)
        return f"At n = {self.n} the paper's own value allows {allowed.low:.1f} to {allowed.high:.1f} %."


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One ``[[fact]]``: something that was published and need only be counted. It is no result of the paper's."""

    id: str
    paper: str
    fact: str
    value: float
    unit: str
    grade: str
    source: str
    note: str = ""


@dataclass(frozen=True)
class Measured:
    """What a notebook found for a claim, in the claim's unit, and what a reader should know of it. ``estimate``, whose
    n counts independent units, is None where it was not measured; ``note`` then adds to the reason why."""

    estimate: Estimate | None
    note: str = ""

    def noted(self, note: str) -> Measured:
        return Measured(self.estimate, f"{self.note} {note}".strip())


def parse(text: str) -> tuple[dict[str, Claim], dict[str, Fact]]:
    """Claims and facts of one ``claims.toml``, by id; a ValueError or KeyError if it contradicts its own rules."""
    data = tomllib.loads(text)
    claims, facts = [], [Fact(**row) for row in data.get("fact", ())]
    for row in data.get("claim", ()):
        why = row.get("awaits", row.get("untested"))
        claims.append(Claim(**row, reason=data["reasons"][why] if why else ""))
    return _by_id(claims), _by_id(facts)


def read_own(file: Path) -> dict[str, Claim]:
    """The claims of a user's own file, by id; UsageError where there is none, or it does not say what it must."""
    try:
        return parse(file.read_text(encoding="utf-8"))[0]
    except OSError as error:
        cause = f"the claims {file} cannot be read: {error.strerror}"
        raise UsageError(cause, "name a file beside the notebook, or its whole path") from error
    except (ValueError, KeyError, TypeError) as error:
        said = f"there is no {error}" if isinstance(error, KeyError) else str(error).removeprefix("Claim.__init__() ")
        raise UsageError(f"{file.name} holds no claims: {said}", "`A claim` in CONTRIBUTING shows all keys") from error


def _by_id(rows: Sequence[Any]) -> dict[str, Any]:
    if len({row.id for row in rows}) < len(rows):
        raise ValueError(f"an id is there twice: {', '.join(row.id for row in rows)}")
    return {row.id: row for row in rows}


def load_claims(package: Path = paths.PACKAGE) -> dict[str, Claim]:
    """All claims by id, paper by paper."""
    return {key: claim for file in _files(package) for key, claim in parse(file)[0].items()}


def load_facts(package: Path = paths.PACKAGE) -> dict[str, Fact]:
    """All facts by id, paper by paper."""
    return {key: fact for file in _files(package) for key, fact in parse(file)[1].items()}


def _files(package: Path) -> list[str]:
    return [file.read_text(encoding="utf-8") for file in sorted(package.glob("papers/*/claims.toml"))]


def verdict(claim: Claim, estimate: Estimate | None) -> str:
    """The claim's verdict by its own interval alone.

    >>> rule = dict(id="x", paper="A", claim="", value=50, unit="%", grade="P", source="", units="programs", least=10)
    >>> above = Claim(**rule, test="effect", margin=2)
    >>> [verdict(above, Estimate(0, low, high, 10)) for low, high in ((53, 57), (48.8, 51.3), (40, 60), (40, 45))]
    ['reproduced', 'no effect', 'inconclusive', 'not reproduced']
    """
    if estimate is None or not np.isfinite(estimate.value):
        return WAITING if claim.awaits else UNTESTED
    if estimate.n < claim.least:
        return UNTESTED
    if not np.isfinite([estimate.low, estimate.high]).all():
        return OPEN
    lowest, highest = claim.region
    if lowest <= estimate.low and estimate.high <= highest:
        return REPRODUCED
    if lowest <= estimate.high and estimate.low <= highest:
        return OPEN
    if claim.test == "effect" and estimate.low > claim.value - claim.margin:
        return NO_EFFECT
    return COMPARATOR if claim.test == "comparator" else REFUTED


def p_value(claim: Claim, estimate: Estimate) -> float:
    """The two-sided level to which the interval could be widened before it decided nothing any more.

    The interval is taken for one of Student's with n - 1 degrees of freedom on either side, as those of few units are.
    """
    margins = claim.value - claim.margin, claim.value + claim.margin
    edges = margins if verdict(claim, estimate) == NO_EFFECT else [edge for edge in claim.region if np.isfinite(edge)]
    return max(_tail(estimate, edge) for edge in edges)


def _tail(estimate: Estimate, edge: float) -> float:
    reach = estimate.value - (estimate.low if edge < estimate.value else estimate.high)
    if not reach:
        return 0.0  # counted, not estimated
    t = stats.t(max(estimate.n - 1, 1))
    return float(2 * t.sf(abs((estimate.value - edge) / reach) * t.ppf((1 + LEVEL) / 2)))


def adjusted(judged: Sequence[tuple[Claim, Estimate | None]]) -> list[tuple[str, float]]:
    """Verdict and Holm's p-value (nan where nothing is decided) of a family of claims; undecided ones count in it."""
    words = [verdict(*one) for one in judged]
    family = [i for i, word in enumerate(words) if word in (*DECIDED, OPEN)]
    p = [p_value(claim, estimate) if words[i] in DECIDED and estimate else 1.0
         for i, (claim, estimate) in ((i, judged[i]) for i in family)]  # fmt: skip
    corrected = dict(zip(family, multipletests(p, method="holm")[1], strict=True))
    out = []
    for i, word in enumerate(words):
        holm = corrected[i] if word in DECIDED else np.nan
        out.append((OPEN if holm > 1 - LEVEL else word, holm))
    return out


def claims_table(papers: str, measured: Mapping[str, Measured], file: Path | None = None) -> pd.DataFrame:
    """The claims of ``papers`` (``"B"``, ``"BD"``) with what was measured; columns :data:`COLUMNS`. With ``file`` they
    are a user's own, from a ``claims.toml`` of his.

    A claim with neither a measurement nor a reason for its absence is an error, and so is a measurement of no claim:
    a row cannot go missing by a slip of the keyboard.
    """
    registered = load_claims() if file is None else read_own(file)
    claims = {key: claim for key, claim in registered.items() if claim.paper in papers}
    _check(measured, claims, f"claim {{!r}} of paper {papers}")
    found = {key: measured.get(key, Measured(None)) for key in claims}
    for key, claim in claims.items():
        if found[key].estimate is None and not claim.reason:
            raise ValueError(f"claim {key!r} was not measured and claims.toml gives no reason why")
    verdicts = adjusted([(claim, found[key].estimate) for key, claim in claims.items()])
    rows = []
    for (key, claim), (word, holm) in zip(claims.items(), verdicts, strict=True):
        ours = found[key]
        notes = [claim.reason if ours.estimate is None else _shortfall(claim, ours.estimate), ours.note, claim.note]
        row = vars(claim) | {"claim_id": key, "paper_value": claim.value, "n": None, "p_holm": holm, "verdict": word}
        if ours.estimate:
            row |= ours.estimate.columns("our_value", "ci_low", "ci_high") | {"n": ours.estimate.n}
        rows.append(row | {"note": " ".join(note for note in [*notes, claim.at_its_own_n()] if note)})
    return pd.DataFrame(rows, columns=COLUMNS).astype({"n": "Int64"})


def _shortfall(claim: Claim, estimate: Estimate) -> str:
    """Why a measurement has no verdict, or no interval."""
    if estimate.n < claim.least:
        return f"Judged from {claim.least} {claim.units} up, and these are {estimate.n}."
    return "" if np.isfinite(estimate.low) else f"No interval over {estimate.n} {claim.units}."


def facts_table(papers: str, counted: Mapping[str, float]) -> pd.DataFrame:
    """The facts of ``papers`` with what was counted; columns :data:`FACT_COLUMNS`. Every fact is to be counted."""
    facts = {key: fact for key, fact in load_facts().items() if fact.paper in papers}
    _check(counted, facts, f"fact {{!r}} of paper {papers}")
    _check(facts, counted, "count of fact {!r}")
    rows = [vars(fact) | {"fact_id": key, "stated": fact.value, "counted": counted[key],
                          "agrees": "yes" if counted[key] == fact.value else "no"}
            for key, fact in facts.items()]  # fmt: skip
    return pd.DataFrame(rows, columns=FACT_COLUMNS)


def _check(given: Mapping[str, Any], known: Mapping[str, Any], what: str) -> None:
    for key in given:
        if key not in known:
            raise ValueError(f"there is no {what.format(key)}: {did_you_mean(key, known)}")


BOUNDS = {"effect": "> ", "at_least": "≥ "}  # of a test; equality needs no sign


def readable(table: pd.DataFrame):
    """The claims table as a notebook shows it: the tested first, whole sentences, digits that the interval supports.

    Returns a pandas Styler with columns verdict, claim, claimed, margin, ours, n, note.
    """
    rows = []
    for row in table.astype(object).where(table.notna(), "").to_dict("records"):
        value, interval = show_estimate(str(row["our_value"]), str(row["ci_low"]), str(row["ci_high"]), row["unit"])
        claimed = BOUNDS.get(row["test"], "") + show(str(row["paper_value"]), row["unit"])
        ours = f"{value} ({interval})" if interval else value
        n = f"{show(str(row['n']))} {row['units']}" if row["n"] else ""
        rows.append((row["verdict"], row["claim"], claimed, show(str(row["margin"])), ours, n, row["note"]))
    frame = pd.DataFrame(rows, columns=["verdict", "claim", "claimed", "margin", "ours", "n", "note"])
    frame = frame.sort_values("verdict", key=lambda column: column.isin((WAITING, UNTESTED)), kind="stable")
    look = {"text-align": "left", "vertical-align": "top", "white-space": "normal"}
    # a fixed id: pandas would draw a random one, and the executed notebook would differ from run to run
    return (
        frame.style.hide(axis="index")
        .set_uuid("claims")
        .set_properties(**look)
        .set_table_styles([{"selector": "th", "props": [("text-align", "left")]}])
    )
