"""Questions as token ids, and a model's answers to them: in text, and by the likelihood of either name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pandas as pd

from nngpt_lab.ground.seeds import generator
from nngpt_lab.llm import sampling
from nngpt_lab.llm.likelihood import by_group
from nngpt_lab.llm.lora import Example
from nngpt_lab.llm.models import Coder
from nngpt_lab.llm.prompts import encode_pair, prompt
from nngpt_lab.papers.dataset_prediction.answers import match
from nngpt_lab.papers.dataset_prediction.design import KEY, Design
from nngpt_lab.papers.dataset_prediction.inputs import Alteration, Shown
from nngpt_lab.papers.dataset_prediction.lab import Lab, Run
from nngpt_lab.papers.dataset_prediction.questions import DATASETS, EPOCH


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
    texts: tuple[tuple[int, ...], ...]
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
    form, tokenizer, asked = prompt(f"{lab.design.style}_{this.prompt}"), lab.coder.tokenizer, []
    for question in questions.itertuples():
        shown = show(lab, question)
        if alteration is not None:
            rng = generator(KEY, "alteration", this.seed, question.Index)
            shown = alteration(shown, lab.code, lab.design.view, rng)
        reads_code = any(field.startswith("nn_code") for field in form.fields)
        codes = tuple(_fitting(lab.coder, code, len(shown.codes)) for code in shown.codes)
        context = "".join(codes) if reads_code else ""
        for turned in swapped:
            names = shown.names[::-1] if turned and len(codes) > 1 else shown.names  # letters keep their places
            messages = form.filled(_values(question, codes, shown.names, turned))
            pairs = [encode_pair(tokenizer, messages, name) for name in names]
            texts = tuple(tuple(ids) for ids, _ in pairs)
            asked.append(Asked(question.Index, turned, context, texts, pairs[0][1], names, bool(question.first_wins)))
    return asked


def show(lab: Lab, question) -> Shown:
    """A question as it is: code as the design shows it, the data sets' own names (letters for two networks)."""
    code = lab.design.view(lab.code[question.architecture])
    if hasattr(question, "architecture_2"):
        return Shown(question.architecture, (code, lab.design.view(lab.code[question.architecture_2])), ("A", "B"))
    return Shown(question.architecture, (code,), (question.dataset_1, question.dataset_2))


def _values(question, codes: tuple[str, ...], names: tuple[str, str], swapped: bool) -> dict[str, str | float]:
    """Values of the prompts' fields, in the order asked for."""
    if len(codes) > 1:
        first, second = codes[::-1] if swapped else codes
        return {"dataset": question.dataset, "epoch": EPOCH, "nn_code_1": first, "nn_code_2": second}
    sides = [(names[0], question.dataset_1, question.norm_1), (names[1], question.dataset_2, question.norm_2)]
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


def answer(coder: Coder, asked: Sequence[Asked], design: Design, texts: bool) -> pd.DataFrame:
    """Columns question, swapped, log_odds, outcome and text (the last two empty where no text was asked for)."""
    with sampling.merged(coder):
        odds = log_odds(coder, asked, design.batch)
        written = _write_texts(coder, asked, design) if texts else {}
    rows = []
    for place, question in enumerate(asked):
        text = written.get(place)
        outcome = "" if text is None else match(text, *question.names)
        rows.append((question.question, question.swapped, odds[place], outcome, text or ""))
    return pd.DataFrame(rows, columns=["question", "swapped", "log_odds", "outcome", "text"])


def _write_texts(coder: Coder, asked: Sequence[Asked], design: Design) -> dict[int, str]:
    """Greedy answers by place in ``asked``; in the other order only where the design wants them."""
    places = [place for place, question in enumerate(asked) if design.swapped_texts or not question.swapped]
    prompts = {place: asked[place].texts[0][: asked[place].prompt_length] for place in places}
    different = sorted(set(prompts.values()))  # networks that look alike are asked the same
    seeds = [0] * len(different)  # greedy: nothing is drawn
    written = sampling.sample(coder, different, seeds, design.decoding, batch_size=8 * design.batch, progress=False)
    said = {text: sample.text for text, sample in zip(different, written, strict=True)}
    return {place: said[prompts[place]] for place in places}


def log_odds(coder: Coder, asked: Sequence[Asked], batch: int) -> np.ndarray:
    """Total log-likelihood of the first name as the answer minus that of the second, nats. Questions about the same
    code are read together, so that it is read once for all orders and names."""
    different = sorted({(question.context, question.texts, question.prompt_length) for question in asked})
    contexts = [list(group) for _, group in groupby(different, key=lambda question: question[0])]
    groups = [[text for _, texts, _ in group for text in texts] for group in contexts]
    starts = [[length for *_, length in group for _ in range(2)] for group in contexts]
    both = np.concatenate(by_group(coder, groups, starts, rows=2 * batch)).reshape(-1, 2)
    odds = {texts: first - second for (_, texts, _), (first, second) in zip(different, both, strict=True)}
    return np.array([odds[question.texts] for question in asked])
