"""From a model's text to a candidate worth training: extract -> static contract. Nothing of the text is run.

Novelty can be asked as well, which the walkthrough does; paper B's loop judges it later, when trained networks are
admitted as training pairs. What counts as a duplicate depends on what came before in a run, so a screening's status is
filed with the sample, never with the evaluation of the code.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nngpt_lab.candidates import contract
from nngpt_lab.candidates.extract import Source, extract
from nngpt_lab.candidates.novelty import Match, NoveltyIndex
from nngpt_lab.candidates.outcome import Candidate, Kind
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.sandbox.status import Status

EXAMPLES = Path(__file__).with_name("examples")


@dataclass(frozen=True)
class Screened:
    """One text after it was read, before any of it is run: its code; ok (worth training), no_code, syntax, contract or
    duplicate, and why; which rule of ``extract`` found the code; and the nearest source seen before, if novelty was
    asked about."""

    candidate: Candidate
    status: Status
    message: str
    source: Source
    match: Match | None = None


def screen(
    text: str,
    kind: Kind,
    index: NoveltyIndex | None = None,
    name: str = "",
    *,
    prompt_hash: str = "",
    sampling_seed: int | None = None,
) -> Screened:
    """Take one text, the model's own words, through extraction and contract, and through novelty if there is an index
    of what was seen before (corpus, run, batch); what is new is added under ``name``, so that the next text is compared
    with it. Never raises on any text."""
    extracted = extract(text, kind)
    candidate = Candidate(text, extracted.code, kind, prompt_hash, sampling_seed)
    inspection, match = contract.check(extracted.code, kind), None
    status, message = inspection.status, inspection.message if extracted.code else "there is no code in the answer"
    if status == Status.OK and index is not None:
        match = index.check_and_add(name, extracted.code)
        if match.duplicate:
            status, message = Status.DUPLICATE, f"Jaccard {match.jaccard:.2f} with {match.nearest}"
    return Screened(candidate, status, message, extracted.source, match)


def example(name: str) -> str:
    """A text as a language model might write it: ``good``, ``subtle`` or ``attack``; written by hand for teaching."""
    path = EXAMPLES / f"{name}.md"
    if not path.is_file():
        names = ", ".join(sorted(path.stem for path in EXAMPLES.glob("*.md")))
        raise UsageError(f"there is no example {name!r}", f"use one of {names}")
    return path.read_text(encoding="utf-8")
