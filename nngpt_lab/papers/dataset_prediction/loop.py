"""Paper C (2605.03686): prompts -> examples -> LoRA, an outer epoch at a time -> answers in text and by likelihood.

    lab = Lab(design, models.load("nano-coder"), questions, code, folder)
    this = Run("code", "architectures", "a fifth", "balanced", seed=0)
    answers = run(lab, this, divide(design, questions, this))

One run is one model, prompt, fold of a split, question set and seed. Every choice in it follows from these. Every
epoch's answers are a file, and the adapter lies beside them: to resume a run is to repeat the call. Of adapters two are
kept, the last one and the one that did best on validation, which is asked again with altered inputs afterwards
(``dataset_inputs.py``).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, groupby
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.hashing import sha256_json
from nngpt_lab.ground.seeds import derive, generator
from nngpt_lab.llm import adapters, sampling
from nngpt_lab.llm.likelihood import log_likelihoods
from nngpt_lab.llm.lora import Example
from nngpt_lab.llm.models import Coder
from nngpt_lab.llm.prompts import encode_pair, prompt
from nngpt_lab.papers.dataset_prediction import answers
from nngpt_lab.papers.dataset_prediction.answers import FIRST
from nngpt_lab.papers.dataset_prediction.design import Design
from nngpt_lab.papers.dataset_prediction.inputs import Alteration, Shown
from nngpt_lab.papers.dataset_prediction.questions import DATASETS, EPOCH, SPLITS, Split, held_out_architectures
from nngpt_lab.study.run_state import RunState

PAPER = "paper C"  # what the keys of all seeds begin with
VALIDATION_SHARE = 0.15  # of the training part's programs
FACTS = ["group", "pair", "dataset_1", "dataset_2", "first_wins", "first", "sampled"]


@dataclass(frozen=True)
class Lab:
    """What all runs of one model share: the bare model, all questions, code by architecture, and where files go."""

    design: Design
    coder: Coder
    questions: pd.DataFrame
    code: Mapping[str, str]
    folder: Path
    progress: bool = True


@dataclass(frozen=True)
class Run:
    """One training: which prompt, on what, and from which seed."""

    prompt: str
    split: str
    part: str
    question_set: str
    seed: int


@dataclass(frozen=True)
class Parts:
    """Questions to train on, to pick the epoch by, and to test on (with columns ``first`` and ``sampled``)."""

    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame


def run(lab: Lab, this: Run, parts: Parts) -> pd.DataFrame:
    """All outer epochs of one run: what ``answers.py`` reads. Epoch 0 is the untuned model."""
    design, tables = lab.design, []
    asked: dict[str, list[Asked]] = {}
    examples: list[Example] = []
    with RunState(lab.coder, design.recipe, folder_of(lab, this), this.seed) as state:
        for epoch in _bar(lab, range(design.epochs + 1), this.prompt):
            file = state.folder / f"answers-{epoch:02d}.parquet"
            if not file.exists():
                asked = asked or {"validation": ask(lab, this, parts.validation), "test": ask(lab, this, parts.test)}
                if epoch:
                    examples = examples or [example(one) for one in ask(lab, this, parts.train, swapped=(False,))]
                    state.tune(epoch, examples, derive(PAPER, "tuning", this.seed, epoch))
                coder = state.coder(epoch + 1)
                held = answer(coder, asked["validation"], design, texts=False)
                tested = answer(coder, asked["test"], design, texts=True)
                _keep_best(state, epoch, held, parts.validation)
                table = pd.concat([held.assign(subset="validation"), tested.assign(subset="test")], ignore_index=True)
                _write(table, file)
            tables.append(pd.read_parquet(file).assign(epoch=epoch))
    return _with_facts(lab, this, pd.concat(tables, ignore_index=True), parts)


def run_altered(lab: Lab, this: Run, parts: Parts, alterations: Mapping[str, Alteration]) -> pd.DataFrame:
    """The tuned model of the picked epoch asked again with altered inputs (column condition), and as it was asked."""
    folder, tables = folder_of(lab, this), []
    tested = parts.test[parts.test["sampled"]]
    rng = generator(PAPER, "altered questions", this.seed)
    tested = draw(tested, lab.design.altered, rng, this.question_set == "balanced")
    missing = [name for name in ("as asked", *alterations) if not (folder / _altered_file(name, len(tested))).exists()]
    if missing:
        coder = adapters.load_adapter(lab.coder, folder / "best", trainable=False)
        try:
            for name in _bar(lab, missing, "altered inputs"):
                asked = ask(lab, this, tested, alterations.get(name))
                _write(answer(coder, asked, lab.design, texts=False), folder / _altered_file(name, len(tested)))
        finally:
            adapters.remove_adapter(coder)
    for name in ("as asked", *alterations):
        tables.append(pd.read_parquet(folder / _altered_file(name, len(tested))).assign(condition=name))
    table = pd.concat(tables, ignore_index=True).assign(subset="test", epoch=1)
    return _with_facts(lab, this, table, parts)


# ----------------------------------------------------------------------------------------------------------- questions


def held_out_near_duplicates(questions: pd.DataFrame, rng: np.random.Generator) -> Iterator[Split]:
    """As held-out architectures, but near-duplicates stay together, too (column near_duplicates)."""
    yield from held_out_architectures(questions.assign(group=questions["near_duplicates"]), rng)


def held_out_names(questions: pd.DataFrame, rng: np.random.Generator) -> Iterator[Split]:
    """As held-out architectures without any such rule: copies of a program may lie on both sides."""
    yield from held_out_architectures(questions.assign(group=questions["architecture"]), rng)


ALL_SPLITS = SPLITS | {"near-duplicates": held_out_near_duplicates, "copies on both sides": held_out_names}


def folds(design: Design, questions: pd.DataFrame, split: str, seed: int) -> list[str]:
    """Names of a split's folds, those with most test questions first, as many as the design runs."""
    if split not in ALL_SPLITS:
        raise UsageError(f"there is no split {split!r}", f"use one of {', '.join(ALL_SPLITS)}")
    found = sorted(ALL_SPLITS[split](questions, generator(PAPER, "split", seed)), key=lambda fold: -len(fold.test))
    return [fold.part for fold in found][: design.parts]


def fold_of(questions: pd.DataFrame, this: Run) -> Split:
    """The whole fold that a run draws its questions from."""
    folds_of_split = ALL_SPLITS[this.split](questions, generator(PAPER, "split", this.seed))
    return next(fold for fold in folds_of_split if fold.part == this.part)


def divide(design: Design, questions: pd.DataFrame, this: Run) -> Parts:
    """The questions of one run. Programs of the validation part are not trained on, but where nothing is held out.

    The first 30 test questions in the order of the table stand for the paper's own choice (``[:test_nn]``): they are of
    few architectures. The others are drawn at random; in a balanced set both names of every pair win equally often in
    each of the three parts. Without a hold-out ("published") the tested questions are among those trained on.
    """
    fold = fold_of(questions, this)
    rng = generator(PAPER, "questions", this.seed, this.split, this.part, this.question_set)
    balanced, train = this.question_set == "balanced", fold.train
    sampled = draw(fold.test, design.test, rng, balanced)
    first = (sampled if balanced else fold.test).head(FIRST)
    test = fold.test.loc[sorted({*first.index, *sampled.index})]
    test = test.assign(first=test.index.isin(first.index), sampled=test.index.isin(sampled.index))
    if this.split == "published":
        others = draw(train.drop(test.index), max(0, (design.train or len(train)) - len(test)), rng, balanced)
        train = train.loc[sorted({*test.index, *others.index})]
        return Parts(train, draw(train, design.validation, rng, balanced), test)
    programs = np.sort(train["group"].unique())
    held = rng.choice(programs, max(1, round(VALIDATION_SHARE * len(programs))), replace=False)
    inside = train["group"].isin(held)
    validation = draw(train[inside], design.validation, rng, balanced)
    return Parts(draw(train[~inside], design.train, rng, balanced), validation, test)


def draw(questions: pd.DataFrame, most: int | None, rng: np.random.Generator, balanced: bool) -> pd.DataFrame:
    """At most so many questions at random; balanced: in couples of one pair, of which each name wins one."""
    if not balanced:
        count = len(questions) if most is None else min(most, len(questions))
        return questions.iloc[np.sort(rng.choice(len(questions), count, replace=False))]
    couples = []
    for _, group in questions.groupby("pair"):
        sides = [rng.permutation(side.index.to_numpy()) for _, side in group.groupby("answer")]
        couples += list(zip(*sides, strict=False)) if len(sides) == 2 else []
    count = len(couples) if most is None else min(most // 2, len(couples))
    chosen = rng.choice(len(couples), count, replace=False) if couples else []
    return questions.loc[sorted(chain.from_iterable(couples[i] for i in chosen))]


# ------------------------------------------------------------------------------------------------------------- prompts


@dataclass(frozen=True)
class Asked:
    """A question as token ids.

    Attributes:
        question: index in the table of questions.
        swapped: asked in the other order.
        context: the code, if it is shown: what the prompts of several questions begin with.
        texts: the prompt with either answer, ended as an answer ends: that of the published first name, then the other.
        prompt_length: tokens of the prompt in both.
        names: what stands for the published first and second name in the prompt.
        first_wins: which answer is right.
    """

    question: int
    swapped: bool
    context: str
    texts: tuple[tuple[int, ...], tuple[int, ...]]
    prompt_length: int
    names: tuple[str, str]
    first_wins: bool


def ask(
    lab: Lab,
    this: Run,
    questions: pd.DataFrame,
    alteration: Alteration | None = None,
    swapped: Sequence[bool] = (False, True),
) -> list[Asked]:
    """Every question in the published order and in the other one."""
    form, tokenizer, found = prompt(f"{lab.design.style}_{this.prompt}"), lab.coder.tokenizer, []
    for question in questions.itertuples():
        shown = show(lab, question)
        if alteration is not None:
            rng = generator(PAPER, "alteration", this.seed, question.Index)
            shown = alteration(question.architecture, shown, lab.code, lab.design.view, rng)
        reads_code = any(field.startswith("nn_code") for field in form.fields)
        codes = tuple(_fitting(lab.coder, code, len(shown.codes)) for code in shown.codes)
        context = "".join(codes) if reads_code else ""
        for turned in swapped:
            names = shown.names[::-1] if turned and len(codes) > 1 else shown.names  # letters keep their places
            values = _values(question, codes, shown.names, turned)
            messages = form.messages(**{field: values[field] for field in form.fields})
            pairs = [encode_pair(tokenizer, messages, name) for name in names]
            texts = tuple(tuple(ids) for ids, _ in pairs)
            found.append(Asked(question.Index, turned, context, texts, pairs[0][1], names, bool(question.first_wins)))
    return found


def show(lab: Lab, question) -> Shown:
    """A question as it is: code as the design shows it, the data sets' own names (letters for two networks)."""
    view = lab.design.view
    if hasattr(question, "architecture_2"):
        return Shown((view(lab.code[question.architecture]), view(lab.code[question.architecture_2])), ("A", "B"))
    return Shown((view(lab.code[question.architecture]),), (question.dataset_1, question.dataset_2))


def _values(question, codes: tuple[str, ...], names: tuple[str, str], swapped: bool) -> dict[str, str | float]:
    """Values of the prompts' fields, in the order asked for."""
    if len(codes) > 1:
        first, second = codes[::-1] if swapped else codes
        return {"dataset": question.dataset, "epoch": EPOCH, "nn_code_1": first, "nn_code_2": second}
    sides = [
        (names[0], question.dataset_1, question.norm_1),
        (names[1], question.dataset_2, question.norm_2),
    ]
    values: dict[str, str | float] = {"epoch": EPOCH, "nn_code": codes[0]}
    for place, (name, dataset, norm) in enumerate(sides[::-1] if swapped else sides, 1):
        images, side, channels, classes = DATASETS[dataset]
        values |= {f"dataset_{place}": name, f"norm_acc_{place}": norm, f"num_train_images_{place}": images}
        values |= {f"img_size_{place}": side, f"num_channels_{place}": channels, f"num_classes_{place}": classes}
    return values


def _fitting(coder: Coder, code: str, count: int) -> str:
    """The code, cut to what the model's context holds beside a prompt and an answer."""
    room = (getattr(coder.model.config, "max_position_embeddings", 2**20) - 400) // count
    if len(code) <= room:  # a token has at least a character
        return code
    ids = coder.tokenizer(code, add_special_tokens=False)["input_ids"]
    return code if len(ids) <= room else coder.tokenizer.decode(ids[:room])


def example(asked: Asked) -> Example:
    """A training text: the prompt and the right name."""
    return Example(asked.texts[0 if asked.first_wins else 1], asked.prompt_length)


# ------------------------------------------------------------------------------------------------------------- answers


def answer(coder: Coder, asked: Sequence[Asked], design: Design, texts: bool) -> pd.DataFrame:
    """Columns question, swapped, log_odds, outcome and text (the last two empty where no text was asked for)."""
    with sampling.merged(coder):
        odds = log_odds(coder, asked, design.batch)
        written = _write_texts(coder, asked, design) if texts else {}
    said = [written.get(place) for place in range(len(asked))]
    outcomes = ["" if text is None else answers.match(text, *one.names) for text, one in zip(said, asked, strict=True)]
    return pd.DataFrame(
        {
            "question": [one.question for one in asked],
            "swapped": [one.swapped for one in asked],
            "log_odds": odds,
            "outcome": outcomes,
            "text": [text or "" for text in said],
        }
    )


def _write_texts(coder: Coder, asked: Sequence[Asked], design: Design) -> dict[int, str]:
    """Greedy answers by place in ``asked``; in the other order only where the design wants them."""
    places = [place for place, one in enumerate(asked) if design.swapped_texts or not one.swapped]
    prompts = {place: asked[place].texts[0][: asked[place].prompt_length] for place in places}
    different = sorted(set(prompts.values()))  # networks that look alike are asked the same
    seeds = [0] * len(different)  # greedy: nothing is drawn
    written = sampling.sample(coder, different, seeds, design.decoding, batch_size=8 * design.batch, progress=False)
    said = {text: one.text for text, one in zip(different, written, strict=True)}
    return {place: said[prompts[place]] for place in places}


def log_odds(coder: Coder, asked: Sequence[Asked], batch: int) -> np.ndarray:
    """Total log-likelihood of the first name as the answer minus that of the second, nats.

    Questions about the same code are read together, so that it is read once for all orders and names.
    """
    odds: dict[tuple, float] = {}
    different = sorted({(one.context, one.texts) for one in asked})
    for _, group in groupby(different, key=lambda one: one[0]):
        pairs = [texts for _, texts in group]
        for start in range(0, len(pairs), batch):
            rows = pairs[start : start + batch]
            # What differs between two prompts counts as well, but is the same for both answers to either
            both = log_likelihoods(coder, [text for row in rows for text in row]).reshape(-1, 2)
            odds |= dict(zip(rows, (both[:, 0] - both[:, 1]).tolist(), strict=True))
    return np.array([odds[one.texts] for one in asked])


def _keep_best(state: RunState, epoch: int, held: pd.DataFrame, validation: pd.DataFrame) -> None:
    """Copy the adapter if no earlier epoch did better on validation."""
    if epoch == 0:
        return
    score = _right(held, validation)
    earlier = [pd.read_parquet(state.folder / f"answers-{e:02d}.parquet") for e in range(1, epoch)]
    if all(score >= _right(table[table["subset"] == "validation"], validation) for table in earlier):
        part = state.folder / "best.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(state.folder / state.adapter, part)
        shutil.rmtree(state.folder / "best", ignore_errors=True)
        part.rename(state.folder / "best")
        for file in state.folder.glob("altered-*.parquet"):  # of the one that was best before
            file.unlink()


def _right(held: pd.DataFrame, validation: pd.DataFrame) -> float:
    """Share of right answers over both orders, as :func:`answers.decisions` counts them."""
    side = (np.sign(held.groupby("question")["log_odds"].mean()) + 1) / 2
    return float((1 - (side - validation["first_wins"].astype(float)).abs()).mean())


# --------------------------------------------------------------------------------------------------------------- files


def folder_of(lab: Lab, this: Run) -> Path:
    """A folder whose name changes with all that the run's answers depend on."""
    key = sha256_json([lab.design.hash(), lab.coder.identity, prompt(f"{lab.design.style}_{this.prompt}").sha256])[:10]
    words = f"{lab.coder.name} {' '.join(str(value) for value in asdict(this).values())} {key}"
    return lab.folder / words.replace(" ", "-").replace("/", "-")


def _altered_file(condition: str, questions: int) -> str:
    return f"altered-{condition.replace(' ', '-').replace(',', '')}-{questions}.parquet"


def _write(table: pd.DataFrame, file: Path) -> None:
    part = file.with_suffix(".part")
    table.to_parquet(part, index=False)
    part.replace(file)


def _with_facts(lab: Lab, this: Run, table: pd.DataFrame, parts: Parts) -> pd.DataFrame:
    held = parts.validation.assign(first=False, sampled=True)
    facts = pd.concat([held.assign(subset="validation"), parts.test.assign(subset="test")])
    facts = facts.rename_axis("question").reset_index()[["subset", "question", *FACTS]]
    joined = table.merge(facts, on=["subset", "question"], validate="many_to_one")
    return joined.assign(model=lab.coder.name, **asdict(this))


def _bar(lab: Lab, items: Sequence, title: str) -> tqdm:
    return tqdm(items, title, leave=False, disable=None if lab.progress else True)
