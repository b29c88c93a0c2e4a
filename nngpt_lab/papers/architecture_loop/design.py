"""Paper B's loop as data: what was published, our scalings of it, and the controls it is compared with.

[P] stands in the paper, [C] in the authors' code, [I] is inferred, "lab" is our own choice (papers.md, section B). What
paper and code state differently stands side by side, as two designs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nngpt_lab.candidates.novelty import PAPER_B, STRUCTURE, NoveltySettings
from nngpt_lab.ground.hashing import sha256_json
from nngpt_lab.ground.names import Named
from nngpt_lab.llm.decoding import Decoding
from nngpt_lab.llm.recipe import Recipe
from nngpt_lab.study import design as study

KEY = "paper B"  # what the keys of all seeds begin with


@dataclass(frozen=True, kw_only=True)
class Design(study.LoopDesign):
    """One loop of paper B.

    Attributes:
        fields: values of the prompt's fields; those that the prompt draws are drawn per sample.
        pair_prompt: the prompt that a network becomes the answer to; None: the one it was sampled with. It may have
            the fields accuracy_percent and max_parameters (1.5 times the network's own) [C].
        cycles: how often the loop goes round.
        thresholds: what an accuracy must reach to become a training pair, then two lower ones that are only reported;
            quantiles of the base model's accuracies if ``base_samples``.
        base_samples: how many samples of the untuned model the quantiles are taken from; 0: thresholds are accuracies.
        fallback: (how many, from which accuracy): if fewer pass, the best from this accuracy up fill the number.
        novelty: when an accepted network counts as new, against the corpus and all accepted before it.
        tries, retry_novelty: sample again, 0.1 hotter each time up to 1.0, while the text is a near copy.
        corpus: what is known before the first cycle: ``lemur`` or ``narrow`` (LEMUR at reduced width).
        corpus_pairs: at most so many pairs of the corpus, of networks that keep the protocol's limit of weights, on
            which the adapter is tuned before the first cycle, and again in each.
        pairs_per_cycle: at most so many pairs are trained on in a cycle: this cycle's first, then earlier ones drawn at
            random; None: all, as published.
    """

    NOT_HASHED = ("cycles",)  # more cycles continue a run

    fields: tuple[tuple[str, str | int], ...]
    cycles: int
    pair_prompt: str | None = None
    thresholds: tuple[float, float, float] = (0.40, 0.35, 0.30)
    base_samples: int = 0
    fallback: tuple[int, float] | None = None
    novelty: NoveltySettings = PAPER_B
    tries: int = 1
    retry_novelty: NoveltySettings | None = None
    corpus: str = "lemur"
    corpus_pairs: int = 1698
    pairs_per_cycle: int | None = None

    def hash(self) -> str:
        # Until 0.2 the pairs of the corpus were drawn from networks of any size
        return sha256_json([super().hash(), "within the limit"]) if self.corpus_pairs else super().hash()


def filled(design: Design) -> dict[str, str | int]:
    """What the loop fills a prompt's fields with."""
    return {"shape": "3x32x32", **dict(design.fields)}


@dataclass(frozen=True)
class Arm(study.Arm):
    """An arm of paper B's loop.

    Its ``proposer`` is ``coder``, or ``corpus``: networks drawn at random from the corpus. Its ``choice`` says which of
    a cycle's valid networks become pairs: ``good`` (over the threshold), ``shuffled`` (over the threshold by another
    one's score) or ``random`` (as many as passed in the loop's same cycle and seed).

    Attributes:
        novel: whether pairs must be new.
    """

    novel: bool = True


ARMS = Named(
    "arm",
    Arm("loop", "the paper's loop"),
    Arm("no tuning", "samples of the base model in every cycle", tuned=False),
    Arm("shuffled scores", "scores change places within the cycle before selection", choice="shuffled"),
    Arm("no novelty filter", "near copies become pairs, too", novel=False),
    Arm("random pairs", "valid networks drawn at random, as many as passed in the loop", choice="random"),
    Arm("random search", "networks drawn at random from the corpus", proposer="corpus", tuned=False),
)

PAPER = Design(
    "paper-b",
    "[P] model, LoRA, decoding, threshold, novelty, 22 cycles; [I] 208 samples a cycle; [C] samples' length",
    coder="DeepSeek-Coder-7B",
    prompt="architecture_paper",
    fields=(("dataset", "cifar-10"), ("shape", "3x32x32"), ("max_parameters", 500_000)),
    decoding=Decoding(temperature=0.2, top_k=50, top_p=0.9, max_new_tokens=2048),
    protocol="paper-b",
    cycles=22,
    samples=208,
    recipe=Recipe(optimizer="paged_adamw_8bit", gradient_checkpointing=True),
    batch=4,  # keys and values of one text take 1.3 GB: 30 layers, no grouped heads
)

AUTHORS = replace(
    PAPER,
    name="paper-b-code",
    source="[C] decoding, tries, evaluator, structural hash at admission, fallback, 150 samples a cycle. Our stand-in "
    "for the hash is the structural form at Jaccard 1; the code prefix of their sampler is unknown and left out",
    prompt="architecture_authors",
    pair_prompt="architecture_authors_selected",
    decoding=Decoding(temperature=0.7, top_k=100, top_p=0.95, max_new_tokens=2048),
    protocol="paper-b-code",
    samples=150,
    fallback=(15, 0.35),
    novelty=replace(STRUCTURE, jaccard_threshold=1.0),
    tries=5,
    retry_novelty=NoveltySettings("raw_tokens", 7, 128, 0.85, 0.85),
)

DEMO = Design(
    "nano",
    "lab: the loop on a CPU in minutes: nano coder, digits, LEMUR at reduced width; thresholds are quantiles of the "
    "base model's accuracies, because 40 % on CIFAR-10 means nothing here; novelty by structure, as in the authors' "
    "code, because in paper B's form, which does not see numbers, hardly any sample is new",
    coder="nano-coder",
    prompt="architecture_nano",
    fields=(("dataset", "digits"), ("max_parameters", 200_000)),
    decoding=Decoding(temperature=1.1, top_k=0, top_p=0.98, max_new_tokens=320),  # 92 % of the corpus is shorter
    protocol="digits-loop",
    cycles=22,
    samples=10,
    thresholds=(0.7, 0.6, 0.5),
    base_samples=32,
    novelty=replace(STRUCTURE, jaccard_threshold=1.0),
    recipe=Recipe(lr=1e-3, epochs=2, batch=8, accumulate=1, warmup=0.1),
    corpus="narrow",
    corpus_pairs=0,
    pairs_per_cycle=12,
    batch=48,
)

SMOKE = replace(
    DEMO,
    name="nano-smoke",
    decoding=replace(DEMO.decoding, temperature=0.7, max_new_tokens=192),  # short texts, and most are sound
    cycles=2,
    samples=4,
    thresholds=(0.5, 0.4, 0.3),
    base_samples=12,
    pairs_per_cycle=4,
)

TOUR = replace(
    DEMO,
    name="nano-tour",
    source="lab: for teaching: a lower threshold and stronger tuning in each cycle, so that the arms part within five "
    "cycles (tried with seeds 1 and 2); the rest as nano",
    cycles=5,
    samples=24,
    thresholds=(0.25, 0.2, 0.1),
    recipe=replace(DEMO.recipe, lr=3e-3, epochs=4),
)

GPU = replace(
    PAPER,
    name="small-gpu",
    source="lab: the paper's loop with SmolLM2-135M on one GPU; the rest as published",
    coder="SmolLM2-135M",
    decoding=Decoding(temperature=0.7, top_k=50, top_p=0.95, max_new_tokens=2048),
    samples=64,
    recipe=Recipe(lr=2e-4, epochs=1, batch=8, accumulate=1),
    pairs_per_cycle=256,
    batch=64,
)

DESIGNS = Named("design", PAPER, AUTHORS, DEMO, SMOKE, TOUR, GPU)
