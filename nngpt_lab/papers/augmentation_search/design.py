"""Paper A's live loop as data: what was published, our scalings of it, and the controls it is compared with.

[P] stands in the paper, [C] in the authors' code, [I] is inferred, "lab" is our own choice (papers.md, section A).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.names import Named, named
from nngpt_lab.llm.decoding import Decoding
from nngpt_lab.llm.recipe import Recipe
from nngpt_lab.papers.augmentation_search.rationales import STYLES
from nngpt_lab.study import design as study
from nngpt_lab.study.design import Arm

KEY = "paper A"  # what the keys of all seeds begin with
FIELDS = ("transform_code", "accuracy", "addon_transform_code", "addon_accuracy")  # what the loop fills in a prompt


@dataclass(frozen=True, kw_only=True)
class Design(study.LoopDesign):
    """One loop of paper A.

    Attributes:
        style: ``direct``, or ``cot``: tuned on answers that say first what they do (``rationales.py``).
        prompt: shows two references: fields transform_code, accuracy, addon_transform_code, addon_accuracy.
        pair_prompt: what a pair's better function answers: fields transform_code and accuracy, of the worse one.
        epochs: LLM epochs.
        start: corpus functions, drawn over all ranges of recorded scores, that are scored anew before the first epoch.
        threshold: the accuracy from which a function joins the archive, from which references and pairs are drawn.
        relative: whether ``threshold`` is a quantile of the start's accuracies instead.
        pairs_per_epoch: at most so many pairs of the archive are trained on after an LLM epoch.
    """

    NOT_HASHED = ("epochs",)  # more epochs continue a run

    pair_prompt: str
    epochs: int
    start: int
    samples: int = 10
    style: str = "direct"
    threshold: float = 0.40
    relative: bool = False
    pairs_per_epoch: int = 4096
    batch: int = 10

    def __post_init__(self):
        named("style", self.style, dict.fromkeys(STYLES))
        super().__post_init__()
        if self.pairs_per_epoch < 1 or self.start < 4:
            raise UsageError(f"design {self.name!r} is too small", "pairs_per_epoch counts from 1, start from 4")
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"design {self.name!r} has threshold {self.threshold}", "accuracies and quantiles: 0 to 1")


# The arms. References come from the growing archive in all of them, tuned or not; the proposer "generator" is the
# authors' random generator, and the choice "shuffled" moves scores within the archive before pairs are drawn.
ARMS = Named(
    "arm",
    Arm("loop", "the paper's loop"),
    Arm("no tuning", "the base model in every epoch", tuned=False),
    Arm("shuffled pairs", "better and worse are drawn by lot", choice="shuffled"),
    Arm("random generator", "no language model: the authors' generator", proposer="generator", tuned=False),
)

PAPER = Design(
    "paper-a",
    "[C] model, LoRA, decoding, prompts, pairs, threshold, 10 samples an epoch; 100 epochs in the authors' "
    "configuration, what the paper reports is unknown. Lab: the archive starts with the whole corpus scored anew, "
    "because which network the recorded scores belong to is unknown",
    coder="OlympicCoder-7B",
    prompt="transform_direct",
    pair_prompt="transform_direct_train",
    decoding=Decoding(temperature=0.8, top_k=70, top_p=0.9, max_new_tokens=16 * 1024),
    protocol="paper-a",
    epochs=100,
    start=6000,
    recipe=Recipe(
        targets=("q_proj", "k_proj", "v_proj", "o_proj"),
        lr=1.5e-4,
        epochs=3,
        batch=1,
        accumulate=8,
        warmup=0.05,
        optimizer="paged_adamw_8bit",
        gradient_checkpointing=True,
    ),
    four_bit=True,
)

GPU = replace(
    PAPER,
    name="small-augment",
    source="lab: the paper's loop with SmolLM2-135M on one GPU, 200 functions at the start; answers of at most 512 "
    "tokens, several times what a function takes",
    coder="SmolLM2-135M",
    decoding=replace(PAPER.decoding, max_new_tokens=512),
    epochs=20,
    start=200,
    pairs_per_epoch=400,
    recipe=replace(
        PAPER.recipe, lr=2e-4, batch=8, accumulate=1, optimizer="adamw", gradient_checkpointing=False, layers=None
    ),
    four_bit=False,
)

DEMO = Design(
    "nano-augment",
    "lab: the loop on a CPU in a minute: nano coder, digits. The threshold is the median of the start's accuracies, "
    "because 40 % on CIFAR-10 means nothing here. Three passes as published, but a small model needs a larger "
    "learning rate: with 1e-3 and two passes the mean of ten epochs rose less than half as far (one seed)",
    coder="nano-coder",
    prompt="transform_nano",
    pair_prompt="transform_nano_train",
    decoding=Decoding(temperature=0.8, top_k=70, top_p=0.9, max_new_tokens=320),
    protocol="digits-augmentation-loop",
    epochs=4,
    start=12,
    threshold=0.5,
    relative=True,
    pairs_per_epoch=20,
    recipe=Recipe(targets=PAPER.recipe.targets, lr=3e-3, epochs=3, batch=8, accumulate=1, warmup=0.1),
)

SHORT = replace(DEMO.decoding, max_new_tokens=128)  # twice the longest function of the corpus
SMOKE = replace(
    DEMO, name="nano-augment-smoke", decoding=SHORT, epochs=2, samples=4, start=6, pairs_per_epoch=4, batch=4
)

DESIGNS = Named("design", PAPER, GPU, DEMO, SMOKE)
