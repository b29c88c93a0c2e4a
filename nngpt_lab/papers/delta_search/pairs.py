"""What paper D's model is asked, how its answer is read, and the pairs of a network and an edit that it is tuned on."""

from __future__ import annotations

from dataclasses import dataclass

from nngpt_lab.candidates import contract
from nngpt_lab.candidates.extract import Source
from nngpt_lab.candidates.outcome import Candidate, Kind
from nngpt_lab.candidates.screening import Screened
from nngpt_lab.corpora.code import code_hash
from nngpt_lab.ground.seeds import generator
from nngpt_lab.llm.lora import Example
from nngpt_lab.llm.prompts import encode_pair, prompt
from nngpt_lab.papers.delta_search import targets
from nngpt_lab.papers.delta_search.application import apply_answer
from nngpt_lab.papers.delta_search.design import KEY, MUTATION, Arm, Design
from nngpt_lab.papers.delta_search.edits import FORMATS, Outcome, Refused
from nngpt_lab.papers.delta_search.lab import Lab, Parent, length, within_limit
from nngpt_lab.papers.delta_search.mutations import layer_numbers
from nngpt_lab.sandbox.status import Status

SHORT = {  # what the nano coder's prompt calls each format
    "whole_file": "source",
    "unified_diff": "a unified diff",
    "numberless_diff": "a diff without numbers",
    "search_replace": "search and replace",
    "whole_block": "whole methods",
    MUTATION: "mutations",
}
STATUSES = {Outcome.NO_OP: Status.DUPLICATE, Outcome.REVERTS: Status.DUPLICATE, Outcome.DOES_NOT_PARSE: Status.SYNTAX}


@dataclass(frozen=True)
class Edited(Screened):
    """An answer after it was applied; ``outcome`` says how, and ``status`` is the contract's word on the child."""

    outcome: Outcome = Outcome.NO_EDIT


def edited(parent: str, answer: str, form: str, complete: bool = True) -> Edited:
    """An answer read, applied to its parent, and the child held against the contract. Nothing is run."""
    applied = apply_answer(parent, answer, form, complete=complete)
    code = "" if applied.code is None else applied.code
    status, message = STATUSES.get(applied.outcome, Status.NO_CODE), f"{applied.outcome}: {applied.detail}"
    if applied.outcome == Outcome.APPLIED:
        inspection = contract.check(code, Kind.ARCHITECTURE)
        status, message = inspection.status, inspection.message
    candidate = Candidate(answer, code, Kind.ARCHITECTURE, parent=code_hash(parent))
    return Edited(candidate, status, message, Source.NONE, outcome=applied.outcome)


def question(lab: Lab, parent: Parent, refused: Edited | None = None) -> tuple[dict[str, str], ...]:
    """The prompt for a parent; after an answer that could not be used with that answer, and why."""
    asked = _messages(lab.design, parent.code, parent.score, lab.proxy.protocol.images)
    if refused is None:
        return asked
    again = prompt("delta_again").messages(error=refused.message or refused.status.value)
    return (*asked, {"role": "assistant", "content": refused.candidate.text}, *again)


def _messages(design: Design, code: str, accuracy: float, dataset: str) -> tuple[dict[str, str], ...]:
    form = prompt(FORMATS[design.form].prompt if design.prompt == "delta" else design.prompt)
    fields = {"accuracy": f"{100 * accuracy:.1f} %", "dataset": dataset, "nn_code": code, "form": SHORT[design.form]}
    if "layers" in form.fields:
        fields["layers"] = "\n".join(f"{number} {text}" for number, text in layer_numbers(code))
    return tuple(form.filled(fields))


def training(lab: Lab, arm: Arm, seed: int, cycle: int, grown: list[tuple[Parent, str]]) -> list[Example]:
    """What the model is tuned on before a cycle: ``Design.examples`` pairs of a baseline and the answer that leads to
    a better network, whose answer fits the token budget."""
    design, chosen = lab.design, []
    for parent, child in grown[::-1] if arm.choice == "grown" else ():  # the latest first
        chosen += _example(lab, parent.code, parent.score, child, lab.proxy.protocol.images)
    networks = within_limit(lab).dropna(subset="accuracy").assign(group="one")
    rng = generator(KEY, "training pairs", seed, cycle)
    for baseline, target in targets.draw(networks, "pair uniform", 20 * design.examples, rng):
        if len(chosen) >= design.examples:
            break
        if arm.choice == "shuffled" and rng.random() < 0.5:
            baseline, target = target, baseline
        before, after = networks.iloc[baseline], networks.iloc[target]
        chosen += _example(lab, before["code"], before["accuracy"], after["code"], "cifar-10")
    return chosen[: design.examples]


def _example(lab: Lab, before: str, accuracy: float, after: str, dataset: str) -> list[Example]:
    """A training text, or none where the format cannot say the change, or not within the budget."""
    design = lab.design
    answer = FORMATS[design.form].write(before, after, design.context)
    if answer is None or length(lab, answer) >= design.decoding.max_new_tokens:
        return []
    try:
        asked = _messages(design, before, accuracy, dataset)
    except Refused:  # layers of a source that does not parse cannot be numbered
        return []
    ids, prompt_length = encode_pair(lab.coder.tokenizer, list(asked), answer)
    return [Example(tuple(ids), prompt_length)]


def tunable(form: str) -> bool:
    """Whether published pairs can be said in a format; no two published networks of a family differ by mutations."""
    return form != MUTATION
