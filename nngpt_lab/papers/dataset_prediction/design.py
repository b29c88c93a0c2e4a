"""Paper C's experiment as data: what was published, and our scalings of it.

[P] stands in the paper, [C] in the authors' code, "lab" is our own choice (papers.md, section C).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.names import Named, all_named
from nngpt_lab.llm.decoding import Decoding
from nngpt_lab.llm.recipe import Recipe
from nngpt_lab.papers.dataset_prediction.inputs import View
from nngpt_lab.study import design as study

KEY = "paper C"  # what the keys of all seeds begin with
PROMPTS = ("scores", "metadata", "code", "code_metadata")
"""Both normalised accuracies, metadata, code alone, code and metadata; the last one is the paper's future work."""
NETWORKS = "networks"  # the prompt of ``Design.networks``

CUTS = (500, 1000, 2000, 4000, None)


@dataclass(frozen=True)
class Cell:
    """What is trained and tested on: a split, a question set (both parts are balanced in a ``balanced`` one), and the
    prompts that are run there; None: all of the design's."""

    split: str
    question_set: str
    prompts: tuple[str, ...] | None = None


WITHIN_FAMILY = Cell("architectures", "balanced within family", ("code",))


@dataclass(frozen=True, kw_only=True)
class Design(study.Design):
    """How questions are asked, trained on and counted in paper C.

    Attributes:
        coders: models, by their names in ``llm/catalogue.py`` or their folders; each is tuned by itself.
        style: prompt files are ``<style>_<prompt>.txt``: ``dataset`` is the authors' text, ``dataset_nano`` ours.
        prompts: which of ``PROMPTS``.
        cells: splits and question sets.
        parts: folds of a split that are run, the largest test parts first; None: all.
        view: what is shown of the code.
        epochs: outer epochs. The learning rate runs through its whole schedule in each, as in the authors' code.
            ``recipe`` is the LoRA of one of them, ``recipe.epochs`` are the inner ones.
        train, validation, test: at most so many questions of each part, drawn at random; None: all.
        ablated: prompts whose inputs are altered at test time.
        altered: at most so many test questions are asked so, drawn at random; None: all.
        cuts: lengths that the code is cut at then, characters; None: not at all.
        networks: also ask which of two networks is better on one data set.
        swapped_texts: answer in text with the names in the other order, too; likelihoods are taken in both anyway.
    """

    # More epochs, models, prompts or cells add runs; they change none
    NOT_HASHED = ("coders", "prompts", "cells", "parts", "epochs", "ablated", "altered", "cuts", "networks")

    coders: tuple[str, ...]
    style: str
    cells: tuple[Cell, ...]
    epochs: int
    train: int | None
    validation: int
    test: int | None
    prompts: tuple[str, ...] = PROMPTS
    parts: int | None = None
    view: View = View()  # noqa: RUF009 (frozen)
    decoding: Decoding = Decoding(temperature=0, top_k=0, top_p=1, max_new_tokens=20)  # noqa: RUF009 (frozen)
    ablated: tuple[str, ...] = ("code",)
    altered: int | None = None
    cuts: tuple[int | None, ...] = CUTS
    networks: bool = True
    swapped_texts: bool = True


PAPER = Design(
    "paper-c",
    "[P] models, LoRA, code and answer lengths, 3 inner epochs, up to 24 outer ones; [C] learning rate, warm-up, "
    "batch, 1,024 training questions, 4 bits; lab: splits, balanced set, both orders, 400 test questions",
    coders=("DeepSeek-Coder-1.3B", "DeepSeek-Coder-7B"),
    style="dataset",
    recipe=Recipe(
        lr=1e-6, epochs=3, warmup=0.05, optimizer="paged_adamw_8bit", gradient_checkpointing=True, max_length=8192
    ),
    cells=(Cell("published", "all"), Cell("architectures", "balanced"), WITHIN_FAMILY),
    epochs=24,
    train=1024,
    validation=200,
    test=400,
    four_bit=True,
    batch=4,  # 8 texts at a time whose code takes 700 tokens: 3 GB of keys and values
    networks=False,
    swapped_texts=False,
)

GPU = Design(
    "small-gpu-c",
    "lab: the paper's protocol with small models at a higher learning rate, one inner epoch per outer one",
    coders=("SmolLM2-135M", "Qwen2.5-Coder-0.5B"),
    style="dataset",
    recipe=Recipe(lr=2e-4, epochs=1, batch=16, accumulate=1, warmup=0.05, layers=None),
    cells=(
        Cell("architectures", "balanced"),
        Cell("families", "balanced", ("code",)),
        Cell("published", "all"),
        Cell("near-duplicates", "balanced", ("code",)),
        Cell("dataset", "balanced", ("code",)),
        WITHIN_FAMILY,
    ),
    parts=2,
    epochs=4,
    train=1000,
    validation=200,
    test=400,
    swapped_texts=False,
)

DEMO = Design(
    "nano-c",
    "lab: all prompts on a CPU in a minute: nano coder, prompts as short as they go; of the code the calls "
    "of layers, cut at 300 characters, because the first 500 of the text are the same in 78 % of the balanced "
    "questions",
    coders=("nano-coder",),
    style="dataset_nano",
    recipe=Recipe(lr=3e-3, epochs=1, batch=4, accumulate=1, warmup=0.1, dropout=0.0),
    cells=(Cell("published", "all", ("code",)), Cell("architectures", "balanced"), WITHIN_FAMILY),
    epochs=2,
    train=48,
    validation=12,
    test=40,
    view=View(300, layers=True),
    decoding=Decoding(temperature=0, top_k=0, top_p=1, max_new_tokens=12),  # the longest name has 10
    batch=64,
    altered=12,
    cuts=(None,),
    networks=False,
    swapped_texts=False,
)

SMOKE = replace(
    DEMO,
    name="nano-c-smoke",
    source="lab: every station in seconds; no result means anything",
    prompts=("code",),
    cells=(Cell("architectures", "balanced"),),
    epochs=1,
    train=16,
    validation=8,
    test=12,
    view=View(100, layers=True),
)


def narrowed(design: Design, coders: str | None, prompts: str | None, splits: str | None) -> Design:
    """The design with other models, and only those of its prompts and splits; names separated by commas, None: all.
    ``networks`` among the prompts asks which of two networks is better.

    UsageError if there is no such prompt or split.
    """
    chosen, cells, networks = design.prompts, design.cells, design.networks
    if prompts is not None:
        known = (*design.prompts, *([NETWORKS] if design.networks else []))
        named = all_named("prompt", prompts, {name: name for name in known})
        chosen, networks = tuple(name for name in named if name != NETWORKS), NETWORKS in named
        if not chosen:
            raise UsageError("networks alone are no comparison of data sets", f"add one of {', '.join(design.prompts)}")
        cells = tuple(replace(cell, prompts=tuple(p for p in cell.prompts or chosen if p in chosen)) for cell in cells)
    if splits is not None:
        wanted = all_named("split", splits, {cell.split: cell.split for cell in cells})
        cells = tuple(cell for cell in cells if cell.split in wanted)
    models = tuple(name.strip() for name in coders.split(",")) if coders else design.coders
    cells = tuple(cell for cell in cells if cell.prompts != ())
    return replace(design, coders=models, prompts=chosen, cells=cells, networks=networks)


DESIGNS = Named("design", PAPER, GPU, DEMO, SMOKE)
