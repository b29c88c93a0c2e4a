"""Chain of thought against direct prompting: the live loop with its prompts and answers changed, nothing else.

    studies = profile_studies("demo")
    answers, skipped = run_studies(results, studies)           # prompting_tables.py makes tables of the answers

Each model is asked in both styles, untuned (zero-shot, and few-shot with two references) and, where the study says so,
while it is tuned in the style itself. An untuned arm is one LLM epoch of the loop's control without tuning: so both
styles see the same references and draw with the same seeds, sample by sample, and what they write passes the same
checks. A tuned arm is the loop; its styles share the first epoch's references and all seeds, and from then on each
refers to functions that it has written itself.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
from tqdm import tqdm

from nngpt_lab.corpora import augmentations
from nngpt_lab.corpora.code import tidy
from nngpt_lab.ground.errors import DataError, LabError, UsageError
from nngpt_lab.ground.progress import bar_hidden
from nngpt_lab.ground.seeds import generator
from nngpt_lab.ground.settings import choose
from nngpt_lab.llm import models
from nngpt_lab.llm.recipe import PROJECTIONS
from nngpt_lab.llm.server_engine import Server
from nngpt_lab.papers.augmentation_search import loop
from nngpt_lab.papers.augmentation_search.archive import start_archive
from nngpt_lab.papers.augmentation_search.design import ARMS, DEMO, GPU, PAPER, SMOKE, Arm, Design
from nngpt_lab.papers.augmentation_search.lab import Lab, open_lab
from nngpt_lab.papers.augmentation_search.prompting_tables import setting
from nngpt_lab.papers.augmentation_search.rationales import STYLES, answer
from nngpt_lab.records.results import Results
from nngpt_lab.study.design import describe, resized
from nngpt_lab.study.lab import opened, run_ahead

log = logging.getLogger(__name__)

COT = {  # a direct prompt -> the same in chain of thought; with ``_zero`` behind its name it shows no references
    "transform_nano": "transform_nano_cot",
    "transform_nano_train": "transform_nano_cot_train",
    "transform_direct": "transform_cot",
    "transform_direct_train": "transform_cot_reasoned_train",
}


@dataclass(frozen=True)
class Study:
    """What is asked of one model.

    Attributes:
        design: how it is asked (in direct style), tuned and scored. Both styles may write as many tokens.
        samples: of each untuned arm and seed.
        epochs: LLM epochs of each tuned arm; 0: the model is not tuned.
        seeds: how many.
    """

    design: Design
    samples: int
    epochs: int
    seeds: int


def _limited(design: Design, tokens: int, **changes) -> Design:
    return replace(design, decoding=replace(design.decoding, max_new_tokens=tokens), **changes)


# lab: the longest rationale takes 110 tokens and the longest function of the corpus 60. A rationale is new to the nano
# coder, and few pairs do not teach it: eight passes at a higher rate do, and the direct style has the same.
RECIPE = replace(DEMO.recipe, targets=PROJECTIONS, lr=3e-3, epochs=8)
NANO = _limited(DEMO, 192, recipe=RECIPE, pairs_per_epoch=24)
SMALL = _limited(GPU, 256, protocol=DEMO.protocol, start=DEMO.start, threshold=DEMO.threshold, relative=True, batch=8)
NANO_GPU = replace(NANO, protocol=GPU.protocol, start=60, pairs_per_epoch=60, batch=40)
SMALL_GPU = replace(GPU, start=60, recipe=replace(GPU.recipe, epochs=RECIPE.epochs), batch=40)
GPU_STUDIES = {
    "nano-coder": Study(NANO_GPU, samples=40, epochs=6, seeds=3),
    "SmolLM2-135M": Study(SMALL_GPU, samples=40, epochs=6, seeds=3),
}
STUDIES = {  # by profile and model
    "smoke": {
        "nano-coder": Study(_limited(SMOKE, 128, recipe=replace(RECIPE, epochs=2)), samples=4, epochs=2, seeds=1)
    },
    "demo": {
        "nano-coder": Study(NANO, samples=30, epochs=6, seeds=1),
        "SmolLM2-135M": Study(SMALL, samples=8, epochs=0, seeds=1),
    },
    "gpu": GPU_STUDIES,
    "paper": {**GPU_STUDIES, PAPER.coder: Study(PAPER, samples=100, epochs=20, seeds=1)},
}


def profile_studies(
    profile: str,
    named: str | None = None,
    *,
    samples: int | None = None,
    epochs: int | None = None,
    seeds: int | None = None,
    **changes: float | None,
) -> list[Study]:
    """A profile's studies, with other numbers of samples, epochs and seeds where they are given, and with ``changes``
    of their designs (:func:`nngpt_lab.study.design.resized`); a model that is not tuned stays untuned. ``named``:
    models (names, folders, GGUF files, servers), separated by commas, or ``all``; None: all, too. One that the profile
    has no study of is asked and tuned as SmolLM2 is; a server's is not tuned.

    UsageError for a model that nobody knows, or a number that is negative or not whole.
    """
    return [
        replace(
            study,
            design=resized(study.design, **changes),
            samples=choose("samples", samples, study.samples),
            epochs=choose("epochs", epochs, study.epochs) if study.epochs else 0,
            seeds=choose("seeds", seeds, study.seeds),
        )
        for study in _studies(STUDIES[profile], named or "all")
    ]


def _studies(known: Mapping[str, Study], named: str) -> list[Study]:
    if named == "all":
        return list(known.values())
    pattern, studies = known.get("SmolLM2-135M", Study(SMALL, samples=4, epochs=0, seeds=1)), []
    for name in filter(None, map(str.strip, named.split(","))):
        served = isinstance(models.find(name), Server)
        other = replace(pattern, design=replace(pattern.design, coder=name), epochs=0 if served else pattern.epochs)
        studies.append(known.get(name, other))
    if not studies:
        raise UsageError("no model is named", f"use 'all' or some of {', '.join(known)}")
    return studies


def styled(design: Design, style: str, shots: int = 2) -> Design:
    """A direct design in a style, with two references or none."""
    asked, pairs = (name if style == "direct" else COT[name] for name in (design.prompt, design.pair_prompt))
    return replace(design, style=style, prompt=asked if shots else f"{asked}_zero", pair_prompt=pairs)


def arms(study: Study) -> Iterator[tuple[str, int, bool, Design]]:
    """Style, shots and tuned of each arm, and its design."""
    for style in STYLES:
        for shots in (0, 2):
            yield style, shots, False, replace(styled(study.design, style, shots), epochs=1, samples=study.samples)
        if study.epochs:
            yield style, 2, True, replace(styled(study.design, style), epochs=study.epochs)


def replaced(studies: Sequence[Study], own: Sequence[Study]) -> pd.DataFrame:
    """What was given in the place of the profile's ``own``: columns model, setting, value, instead_of."""
    tables = [pd.DataFrame(columns=["model", "setting", "value", "instead_of"])]
    for study, before in zip(studies, own, strict=True):
        if study.design != before.design:
            table = describe(study.design, before.design).assign(model=study.design.coder)
            tables.append(table[table["instead_of"] != ""])
    return pd.concat(tables, ignore_index=True)


def example(design: Design) -> dict[str, tuple[str, str]]:
    """By style: a prompt with two functions of the corpus, and a better function as the answer of a training text."""
    functions = augmentations.load().brute_force.dropna(subset="score").sort_values(["score", "name"])
    three = functions.iloc[[len(functions) * tenths // 10 for tenths in (3, 5, 9)]]
    three = three.assign(code=[tidy(code) for code in three["code"]]).reset_index(drop=True)
    archive, better = three.head(2), three["code"].iloc[-1]
    references = list(zip(archive["code"], archive["score"], strict=True))
    shown = {}
    for style in STYLES:
        own = replace(styled(design, style), samples=1)
        (asked,) = loop.questions(own, archive, generator("paper A", "example"))
        shown[style] = asked[-1]["content"], answer(style, references[:1], better)
    return shown


def run_studies(
    results: Results, studies: Sequence[Study], first_seed: int = 0, workers: int = 2
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run every arm of every study with its seeds, or read back what was run.

    Returns:
        The answers, one row per sample: model, style, shots, tuned, seed, epoch, position, text, code_hash, tokens,
        limit, status, valid, score. And what was left out because its model cannot be had here: model, reason.

    Raises:
        LabError: no model can be had.
    """
    tables, skipped = [], []
    for study in studies:
        try:
            coder = models.load(study.design.coder, results.profile.device, four_bit=study.design.four_bit)
        except (DataError, UsageError) as error:  # no network, no room for it, a package missing: the others can run
            log.warning("%s is left out: %s", study.design.coder, error)
            skipped.append((study.design.coder, error.cause))
            continue
        tables += run_study(results, study, range(first_seed, first_seed + study.seeds), workers, coder)
    if not tables:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped)
        raise LabError(f"no model can be had ({reasons})", "name another model, or see `nngpt-lab doctor`")
    return pd.concat(tables, ignore_index=True), pd.DataFrame(skipped, columns=["model", "reason"])


def run_study(
    results: Results, study: Study, seeds: Sequence[int], workers: int, coder: models.Coder
) -> list[pd.DataFrame]:
    """The answers of one model, a table per arm and seed; columns as of :func:`run_studies`."""
    todo = [(*arm, seed) for arm in arms(study) for seed in seeds]
    calls = [(design, ARMS["loop" if tuned else "no tuning"], seed) for _, _, tuned, design, seed in todo]
    with opened(results, "loops", open_lab, study.design, workers, coder=coder) as lab:
        for seed in seeds:
            start_archive(lab, seed)  # is scored once, for all runs
        run_ahead(lab, open_lab, loop.run, calls, workers)
        tables, both = [], zip(todo, calls, strict=True)
        bar = tqdm(both, lab.coder.name, len(todo), leave=False, disable=bar_hidden())
        for (style, shots, tuned, _, seed), (design, arm, _) in bar:
            bar.set_postfix_str(f"{style}, {setting(shots, tuned)}, seed {seed}")
            own = replace(lab, design=design)
            rows = loop.run(own, arm, seed)
            about = {"model": lab.coder.name, "style": style, "shots": shots, "tuned": tuned, "seed": seed}
            rows = rows.assign(**about, limit=design.decoding.max_new_tokens, text=_texts(own, arm, seed))
            tables.append(rows[COLUMNS])
        return tables


COLUMNS = ["model", "style", "shots", "tuned", "seed", "epoch", "position", "text", "code_hash", "tokens", "limit",
           "status", "valid", "score"]  # fmt: skip


def _texts(lab: Lab, arm: Arm, seed: int) -> list[str]:
    """What was written in a run, in the order of its rows."""
    names = (loop.epoch_name(lab, arm, seed, epoch) for epoch in range(1, lab.design.epochs + 1))
    epochs = map(lab.ledger.texts, names)
    return [texts[place] for texts in epochs for place in sorted(texts)]
