"""All that a notebook shows of paper C's language models: every run of a design, or read back, as tables."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from joblib import delayed
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from nngpt_lab.candidates.novelty import NoveltySettings
from nngpt_lab.corpora.architectures import Lemur
from nngpt_lab.ground.processes import parallel
from nngpt_lab.ground.progress import bar_hidden, noted
from nngpt_lab.ground.seeds import generator
from nngpt_lab.llm import models
from nngpt_lab.llm.models import one_thread
from nngpt_lab.papers.dataset_prediction import answers as paper_answers
from nngpt_lab.papers.dataset_prediction import baselines as paper_baselines
from nngpt_lab.papers.dataset_prediction import loop, network_questions
from nngpt_lab.papers.dataset_prediction.design import KEY, Design
from nngpt_lab.papers.dataset_prediction.division import Parts, divide, draw, fold_of, folds
from nngpt_lab.papers.dataset_prediction.inputs import View, alterations, distinct_views, near_duplicates
from nngpt_lab.papers.dataset_prediction.lab import Lab, Run
from nngpt_lab.papers.dataset_prediction.questions import best_records, build_questions
from nngpt_lab.records.results import Results
from nngpt_lab.study.estimate import Work
from nngpt_lab.study.kept import kept
from nngpt_lab.study.lab import check

BASELINES = ("frequent_winner", "names", "metadata", "family_and_names", "code_logistic", "code_and_names")
NEAR = NoveltySettings("ast_nameless", shingle=7, permutations=2, lsh_threshold=0.9, jaccard_threshold=0.95)
"""Near-duplicates that a split keeps together: programs without their names, numbers seen. (At paper B's 0.90, which
does not see numbers, a chain of near-duplicates links 79 % of all questions: nothing is left to split.)"""
NETWORKS = Run("networks", "architectures", "a fifth", "balanced", seed=0)


@dataclass(frozen=True)
class DatasetRuns:
    """What came of the runs; the columns are those of ``answers.py``.

    Attributes:
        answers: of every model, prompt, fold, seed, epoch, question and order.
        altered: the same with altered inputs (column condition), at the picked epoch; empty if none was asked for.
        baselines: answers of the baselines to the same test questions.
        networks, controls: answers of the models and of the controls to which of two networks is better; or empty.
    """

    answers: pd.DataFrame
    altered: pd.DataFrame
    baselines: pd.DataFrame
    networks: pd.DataFrame
    controls: pd.DataFrame


def work(design: Design, seeds: int) -> Work:
    """What the runs of one model take at most; a prompt has about a token for three characters of code, and 200."""
    folds_of = {cell.split: 1 if cell.split == "published" else design.parts or 5 for cell in design.cells}
    of_a_seed = sum(folds_of[cell.split] * len(cell.prompts or design.prompts) for cell in design.cells)
    runs, most = seeds * (of_a_seed + design.networks), 10_000  # where a design asks all that there are
    train, test = design.train or most, design.test or most
    altered = min(design.altered or most, test)
    prompt = (design.view.characters or 8_000) // 3 + 200
    answered = (design.epochs + 1) * 2 * (design.validation + test)
    again = 2 * altered * (5 + len(design.cuts)) * len(design.ablated) // len(design.prompts)
    texts = runs * (design.epochs + 1) * test * (1 + design.swapped_texts)
    tuned = runs * design.epochs * design.recipe.epochs * train * prompt
    read = runs * (answered + again) * prompt
    return Work(texts, texts * design.decoding.max_new_tokens, read, tuned, 0, 2 * runs)


def run_design(results: Results, design: Design, lemur: Lemur, seeds: Sequence[int], workers: int = 2) -> DatasetRuns:
    """Every model, prompt, cell, fold and seed of a design, or what was kept of it, a folder a run in ``datasets`` of
    the results. ``workers``: processes of one thread each; 1 runs all in this one. On a GPU each loads a model of its
    own and has an equal part of the card's memory. UsageError, DataError: a model or the memory for it is missing;
    before any work."""
    coders, device = design.coders, results.profile.device
    four_bit = design.four_bit and device.startswith("cuda")
    check(replace(design, four_bit=four_bit), device)
    questions, code = prepare(design, lemur)
    jobs: list[tuple[str, Run, Parts | None]] = []
    places = []
    for cell, seed in product(design.cells, seeds):
        for part in folds(design, questions, cell.split, seed):
            places.append(Run("", cell.split, part, cell.question_set, seed))
            named = product(coders, cell.prompts or design.prompts)
            jobs += [(coder, replace(places[-1], prompt=name), None) for coder, name in named]
    networks = {seed: _network_parts(design, lemur, seed) for seed in seeds} if design.networks else {}
    for coder, (seed, parts) in product(coders, networks.items()):
        jobs.append((coder, replace(NETWORKS, seed=seed), parts))
    jobs.sort(key=lambda job: not _telling(design, job[1], seeds))
    folder = results.folder / "datasets"
    common = (design, questions, code, folder, device, four_bit)
    of_card = 1 / workers if device.startswith("cuda") else None
    calls = [delayed(_run)(*common, *job, of_card) for job in jobs]
    for place in places:
        make = functools.partial(_answer_baselines, design, questions, code, place)
        calls.append(delayed(kept)(_file(folder, design, "baselines", *astuple(place)[1:]), make))
    made = parallel(workers, return_as="generator")(calls)
    tables = list(tqdm(noted(made, "runs", len(calls)), "runs", total=len(calls), leave=False, disable=bar_hidden()))
    done, baselines = tables[: len(jobs)], tables[len(jobs) :]
    answers: list[pd.DataFrame] = []
    of_networks: list[pd.DataFrame] = []
    for (_, this, _), (table, _) in zip(jobs, done, strict=True):
        (of_networks if this.prompt == NETWORKS.prompt else answers).append(table)
    controls = []
    for seed, parts in networks.items():
        make = functools.partial(network_questions.answer_controls, parts.train, parts.test, code)
        controls.append(kept(_file(folder, design, "controls", seed), make).assign(seed=seed))
    return DatasetRuns(
        _stack(answers),
        _stack([altered for _, altered in done if altered is not None]),
        _stack(baselines),
        _stack(of_networks),
        _stack(controls),
    )


def _telling(design: Design, this: Run, seeds: Sequence[int]) -> bool:
    """Whether a run is among those that say most, which go first, since a slice of time may end: code and its positive
    control, on the design's first questions, with two seeds."""
    first = (this.split, this.question_set) == (design.cells[0].split, design.cells[0].question_set)
    return first and this.prompt in ("scores", "code") and this.seed in seeds[:2]


def prepare(design: Design, lemur: Lemur) -> tuple[pd.DataFrame, dict[str, str]]:
    """Paper C's questions, with the column near_duplicates if a cell needs it, and code by architecture."""
    questions = build_questions(lemur.records, lemur.architectures)
    names = sorted(best_records(lemur.records)["architecture"].unique())
    code = lemur.architectures.set_index("name")["code"].loc[names].to_dict()
    if any(cell.split == "near-duplicates" for cell in design.cells):
        group = near_duplicates({name: code[name] for name in questions["architecture"].unique()}, NEAR)
        questions["near_duplicates"] = questions["architecture"].map(group)
    return questions, code


def _run(
    design: Design,
    questions: pd.DataFrame,
    code: Mapping[str, str],
    folder: Path,
    device: str,
    four_bit: bool,
    coder: str,
    this: Run,
    parts: Parts | None,
    part_of_card: float | None,
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Answers of one run, and those with altered inputs where the design wants them; ``parts`` None: as divided."""
    if part_of_card is not None:
        torch.cuda.set_per_process_memory_fraction(part_of_card, torch.device(device).index)
    with one_thread() if device == "cpu" else contextlib.nullcontext():
        lab = Lab(design, _load(coder, device, four_bit), folder, questions, code, progress=False)
        parts = parts or divide(design, questions, this)
        answers = loop.run(lab, this, parts)
        if this.prompt not in design.ablated:
            return answers, None
        return answers, loop.run_altered(lab, this, parts, alterations(design.view, design.cuts))


@functools.lru_cache(maxsize=1)
def _load(coder: str, device: str, four_bit: bool) -> models.Coder:
    """The model of this process: loaded once, bare between runs."""
    return models.load(coder, device, four_bit=four_bit)


def _file(folder: Path, design: Design, *words: str | int) -> Path:
    return folder / ("-".join(map(str, [*words, design.hash()[:10]])).replace(" ", "-").replace("/", "-") + ".parquet")


def _answer_baselines(design: Design, questions: pd.DataFrame, code: Mapping[str, str], this: Run) -> pd.DataFrame:
    """The baselines' answers to a run's test questions, trained on the run's questions, and on the whole fold."""
    parts = divide(design, questions, this)
    features = paper_baselines.CodeFeatures({name: code[name] for name in questions["architecture"].unique()})
    rng = generator(KEY, "whole training part", this.seed)
    whole = draw(fold_of(questions, this).train, None, rng, this.question_set)
    test, tables = parts.test[parts.test["sampled"]], []
    with threadpool_limits(1):
        trained = {"the same questions": parts.train, "the whole training part": whole}
        for (trained_on, train), name in product(trained.items(), BASELINES):
            chance = paper_baselines.BASELINES[name](train, test, features, this.seed)
            correct = paper_baselines.graded(chance, test)
            facts = {"question": test.index, "group": test["group"].to_numpy(), "correct": correct}
            tables.append(pd.DataFrame({**asdict(this), "baseline": name, "trained_on": trained_on, **facts}))
    return pd.concat(tables, ignore_index=True).drop(columns="prompt")


def _network_parts(design: Design, lemur: Lemur, seed: int) -> Parts:
    rng, most = generator(KEY, "networks", seed), 10_000
    counts = (design.train or most, design.validation, design.test or most)
    return network_questions.build_parts(lemur.records, lemur.architectures, rng, *counts)


def _stack(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def tables(runs: DatasetRuns, rng: np.random.Generator, resamples: int) -> dict[str, pd.DataFrame]:
    """Every table of the runs, by the name of its file; see ``answers.py`` for their columns."""
    decided = paper_answers.decisions(runs.answers)
    picked = paper_answers.picked_epochs(decided)
    draws = (rng, resamples)
    made = {
        "llm_epochs": paper_answers.epochs_table(decided),
        "peaks": paper_answers.peaks_table(decided, picked, *draws),
        "models_and_baselines": paper_answers.models_table(decided, runs.baselines, picked, *draws),
        "against_baselines": paper_answers.against_baselines(decided, runs.baselines, picked, *draws),
        "order_swap": paper_answers.order_swap(runs.answers, picked),
        "per_dataset": paper_answers.per_dataset(decided, picked, *draws),
        "pair_confusion": paper_answers.pair_confusion(decided, picked),
        "calibration": paper_answers.calibration(decided, picked),
        "code_over_metadata": paper_answers.code_over_metadata(decided, picked, *draws),
    }
    if len(runs.altered):
        made["input_ablations"] = paper_answers.ablations_table(paper_answers.decisions(runs.altered), *draws)
    if len(runs.networks):
        made["network_comparison"] = _networks_table(runs, *draws)
    return made


def _networks_table(runs: DatasetRuns, rng: np.random.Generator, resamples: int) -> pd.DataFrame:
    decided = paper_answers.decisions(runs.networks)
    place = {name: getattr(NETWORKS, name) for name in ("split", "part", "question_set")}
    controls = runs.controls.assign(**place, trained_on="the same questions")
    return paper_answers.models_table(decided, controls, paper_answers.picked_epochs(decided), rng, resamples)


def code_views(design: Design, questions: pd.DataFrame, code: Mapping[str, str]) -> pd.DataFrame:
    """How many networks can be told apart by the paper's cut, other cuts and what the design shows."""
    cuts = {f"first {n:,} characters": View(n) for n in (500, 1000, 2000, 4000)} | {"all of it": View(None)}
    whole = replace(design.view, characters=None)
    if design.view.layers:
        cuts |= {f"calls of layers, first {design.view.characters:,}": design.view, "calls of layers, all": whole}
    return distinct_views(questions, code, cuts)
