"""Paper C (2605.03686): prompts -> examples -> LoRA, an outer epoch at a time -> answers in text and by likelihood.

    lab = Lab(design, models.load("nano-coder"), folder, questions, code)
    this = Run("code", "architectures", "a fifth", "balanced", seed=0)
    answers = run(lab, this, divide(design, questions, this))

One run is one model, prompt, fold of a split, question set and seed. Every choice in it follows from these. Every
epoch's answers are a file, and the adapter lies beside them: to resume a run is to repeat the call. Of adapters two are
kept, the last one and the one that did best on validation, which is asked again with altered inputs afterwards
(``inputs.py``).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict

import pandas as pd

from nngpt_lab.ground.files import replacing
from nngpt_lab.ground.seeds import derive, generator
from nngpt_lab.llm import adapters
from nngpt_lab.llm.lora import Example
from nngpt_lab.papers.dataset_prediction.answers import likelier
from nngpt_lab.papers.dataset_prediction.asking import Asked, answer, ask, example
from nngpt_lab.papers.dataset_prediction.design import KEY
from nngpt_lab.papers.dataset_prediction.division import Parts, draw
from nngpt_lab.papers.dataset_prediction.inputs import Alteration
from nngpt_lab.papers.dataset_prediction.lab import Lab, Run
from nngpt_lab.study.run_state import RunState

FACTS = ["group", "pair", "dataset_1", "dataset_2", "first_wins", "first", "sampled"]


def run(lab: Lab, this: Run, parts: Parts) -> pd.DataFrame:
    """All outer epochs of one run: what ``answers.py`` reads. Epoch 0 is the untuned model."""
    design, tables = lab.design, []
    asked: dict[str, list[Asked]] = {}
    examples: list[Example] = []
    with this.state(lab) as state:
        for epoch in lab.bar(range(design.epochs + 1), this.prompt):
            file = state.folder / f"answers-{epoch:02d}.parquet"
            if not file.exists():
                asked = asked or {"validation": ask(lab, this, parts.validation), "test": ask(lab, this, parts.test)}
                if epoch:
                    examples = examples or list(map(example, ask(lab, this, parts.train, swapped=(False,))))
                    state.tune(epoch, examples, derive(KEY, "tuning", this.seed, epoch))
                coder = state.coder(epoch + 1)
                held = answer(coder, asked["validation"], design, texts=False)
                tested = answer(coder, asked["test"], design, texts=True)
                _keep_best(state, epoch, held, parts.validation)
                table = pd.concat([held.assign(subset="validation"), tested.assign(subset="test")], ignore_index=True)
                with replacing(file) as whole:
                    table.to_parquet(whole, index=False)
            tables.append(pd.read_parquet(file).assign(epoch=epoch))
    return _with_facts(lab, this, pd.concat(tables, ignore_index=True), parts)


def run_altered(lab: Lab, this: Run, parts: Parts, alterations: Mapping[str, Alteration]) -> pd.DataFrame:
    """The tuned model of the picked epoch asked again with altered inputs (column condition), and as it was asked."""
    folder, tested = this.folder(lab), parts.test[parts.test["sampled"]]
    rng = generator(KEY, "altered questions", this.seed)
    tested = draw(tested, lab.design.altered, rng, this.question_set)
    words = {name: name.replace(" ", "-").replace(",", "") for name in ("as asked", *alterations)}
    files = {name: folder / f"altered-{word}-{len(tested)}.parquet" for name, word in words.items()}
    missing = [name for name, file in files.items() if not file.exists()]
    if missing:
        coder = adapters.load_adapter(lab.coder, folder / "best", trainable=False)
        try:
            for name in lab.bar(missing, "altered inputs"):
                asked = ask(lab, this, tested, alterations.get(name))
                with replacing(files[name]) as whole:
                    answer(coder, asked, lab.design, texts=False).to_parquet(whole, index=False)
        finally:
            adapters.remove_adapter(coder)
    tables = [pd.read_parquet(file).assign(condition=name, subset="test", epoch=1) for name, file in files.items()]
    return _with_facts(lab, this, pd.concat(tables, ignore_index=True), parts)


def _keep_best(state: RunState, epoch: int, held: pd.DataFrame, validation: pd.DataFrame) -> None:
    """Copy the adapter if no earlier epoch did better on validation."""
    if epoch == 0:
        return
    score = _right(held, validation)
    earlier = [pd.read_parquet(state.folder / f"answers-{e:02d}.parquet") for e in range(1, epoch)]
    if all(score >= _right(table[table["subset"] == "validation"], validation) for table in earlier):
        part = state.folder / "best.part"
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(state.folder / str(state.adapter), part)
        shutil.rmtree(state.folder / "best", ignore_errors=True)
        part.rename(state.folder / "best")
        for file in state.folder.glob("altered-*.parquet"):  # of the one that was best before
            file.unlink()


def _right(held: pd.DataFrame, validation: pd.DataFrame) -> float:
    """Share of right answers over both orders, as :func:`answers.decisions` counts them."""
    side = likelier(held.groupby("question")["log_odds"].mean())
    return float((1 - (side - validation["first_wins"].astype(float)).abs()).mean())


def _with_facts(lab: Lab, this: Run, table: pd.DataFrame, parts: Parts) -> pd.DataFrame:
    held = parts.validation.assign(first=False, sampled=True)
    facts = pd.concat([held.assign(subset="validation"), parts.test.assign(subset="test")])
    facts = facts.rename_axis("question").reset_index()[["subset", "question", *FACTS]]
    joined = table.merge(facts, on=["subset", "question"], validate="many_to_one")
    weights = lab.coder.model.num_parameters()
    return joined.assign(model=lab.coder.name, weights=weights, **asdict(this))
