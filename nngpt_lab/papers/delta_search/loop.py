"""Paper D, live: ask for an edit of a network, put it in its place, train the child, compare it with its own parent.

    with open_lab(design, ledger, folder, device, workers) as lab:
        edits = run(lab, ARMS["static corpus"], 0, parents(lab, 0))

One run is one format, one arm and one seed. All of them edit the same parents in the same order, with the same seeds
and the same most tokens. What cannot be used is asked for again, with the reason; the first attempt is kept apart. No
answer is ever taken for something else than the edit that it is: there is no way around the applier.

As in the other loops every choice follows from design, arm, seed, cycle and position, every text and outcome lies in
the ledger, and to resume a run is to repeat the call.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import pandas as pd

from nngpt_lab.corpora.code import code_hash
from nngpt_lab.ground.seeds import derive, generator
from nngpt_lab.papers.delta_search.design import KEY, MUTATION, Arm
from nngpt_lab.papers.delta_search.edits import Outcome, wrapped
from nngpt_lab.papers.delta_search.lab import Lab, Parent, length
from nngpt_lab.papers.delta_search.mutations import random_mutation
from nngpt_lab.papers.delta_search.pairs import Edited, edited, question, training
from nngpt_lab.sandbox.status import Status
from nngpt_lab.study.lab import ArmRun
from nngpt_lab.study.proposals import file_text, score, was_cut, write
from nngpt_lab.study.run_state import RunState


def run(lab: Lab, arm: Arm, seed: int, parents: Sequence[Parent]) -> pd.DataFrame:
    """All cycles of one format, arm and seed.

    Returns:
        One row per sample: form, arm, seed, cycle (from 1), position, parent (its name), parent_hash, parent_score,
        attempts; for the first attempt (``first_``) and the last: outcome (of the application, then of the training),
        status, score, difference (score minus the parent's), valid, tokens; code_hash (of the last), and for each stage
        the cycle's seconds. ``tokens`` counts all attempts.
    """
    design, tables = lab.design, []
    grown: list[tuple[Parent, str]] = []  # children that beat their parents
    with ArmRun(arm, seed).state(lab) as state:
        cycles = lab.bar(range(1, design.cycles + 1), f"{design.form}, {arm.name}, seed {seed}")
        for cycle in cycles:
            with state.timed("tuning"):
                if arm.tuned:
                    examples = training(lab, arm, seed, cycle, grown)
                    state.tune(cycle - 1, examples, derive(KEY, "tuning", seed, cycle))
            rows, children = attempt(lab, arm, seed, cycle, parents, state)
            grown += [(parent, child) for parent, child, gain in children if gain > 0]
            about = {"form": design.form, "arm": arm.name, "seed": seed, "cycle": cycle}
            tables.append(rows.assign(**about, **state.end_cycle(cycle)))
            cycles.set_postfix(valid=f"{rows['valid'].mean():.0%}", refresh=False)
    return pd.concat(tables, ignore_index=True)


def attempt(
    lab: Lab, arm: Arm, seed: int, cycle: int, parents: Sequence[Parent], state: RunState
) -> tuple[pd.DataFrame, list[tuple[Parent, str, float]]]:
    """A cycle's samples, each tried until it can be trained or has no retry left; and parent, child and gain of those
    that were trained."""
    design, place = lab.design, range(lab.design.samples)
    order = generator(KEY, "order", seed, cycle).permutation(len(parents))
    own = [parents[order[i % len(order)]] for i in place]
    rows: dict[int, dict] = {}
    answers: dict[int, Edited] = {}
    waiting = list(place)
    for number in range(1 + (design.retries if arm.proposer == "coder" else 0)):
        asked = [question(lab, own[i], answers.get(i)) for i in waiting]
        seeds = [derive(KEY, "sampling", seed, cycle, i, number) for i in waiting]
        name = f"{ArmRun(arm, seed).name(lab)} cycle {cycle:02d} attempt {number + 1}"
        written = propose(lab, arm, name, [own[i] for i in waiting], asked, seeds, lambda: state.coder(cycle))
        with state.timed("evaluation"):
            screened, scored = score(lab, state.timed_steps("sampling", written), seed)
        for i, sample, row in zip(waiting, screened, scored.to_dict("records"), strict=True):
            answers[i] = sample  # type: ignore[assignment]  # what propose yields
            rows[i] = _row(rows.get(i), i, own[i], answers[i], row)
        waiting = [i for i in waiting if answers[i].status != Status.OK]
        if not waiting:
            break
    table = pd.DataFrame([rows[i] for i in place])
    better = table[table["valid"]]
    gains = [(own[row.position], answers[row.position].candidate.code, row.difference) for row in better.itertuples()]
    return table, gains


def _row(before: dict | None, position: int, parent: Parent, sample: Edited, scored: dict) -> dict:
    """The row of a sample after one more attempt; ``before``: after those until then."""
    outcome = sample.outcome.value if sample.outcome != Outcome.APPLIED else scored["status"]
    now = {"outcome": outcome, "status": scored["status"], "score": scored["score"], "tokens": scored["tokens"]}
    now |= {"difference": scored["score"] - parent.score, "valid": scored["status"] == Status.OK.value}
    row = {"position": position, "parent": parent.name, "parent_hash": code_hash(parent.code)}
    row |= {"parent_score": parent.score, "code_hash": scored["code_hash"], "attempts": 1, **now}
    if before is None:
        return row | {f"first_{name}": value for name, value in now.items()}
    return before | row | {"attempts": before["attempts"] + 1, "tokens": before["tokens"] + now["tokens"]}


def propose(
    lab: Lab, arm: Arm, name: str, own: Sequence[Parent], asked: list, seeds: Sequence[int], coder
) -> Generator[tuple[int, Edited]]:
    """Answers as they end, with their places, applied to their parents; each is in the ledger."""
    limit, form = lab.design.decoding.max_new_tokens, lab.design.form if arm.proposer == "coder" else MUTATION

    def read(place: int, text: str) -> Edited:
        # Ledgers from before the cuts were noted have the length alone, counted again
        cut = was_cut(lab, name, place, text) or (lab.coder.tokenizer is not None and length(lab, text) >= limit)
        return edited(own[place].code, text, form, complete=not cut)

    if arm.proposer == "coder":
        yield from write(lab, name, asked, seeds, coder, read=read)  # type: ignore[misc]
        return
    for place, parent in enumerate(own):
        drawn = random_mutation(parent.code, generator(KEY, "mutation", seeds[place]))
        text = wrapped(f"{drawn[0].kind} {drawn[0].layer} {drawn[0].value}".strip()) if drawn else ""
        yield place, file_text(lab, name, place, text, None, read=read)  # type: ignore[misc]
