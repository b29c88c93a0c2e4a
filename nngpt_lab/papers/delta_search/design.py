"""Paper D's comparison of formats as data: what was published, our scalings of it, and the arms.

[P] stands in the paper, [C] in the authors' code, [I] is inferred, "lab" is our own choice (delta.md).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.names import Named, all_named, named
from nngpt_lab.llm.decoding import Decoding
from nngpt_lab.llm.recipe import Recipe
from nngpt_lab.papers.delta_search.edits import CONTEXT, FORMATS
from nngpt_lab.study import design as study
from nngpt_lab.study.design import Arm

KEY = "paper D"  # what the keys of all seeds begin with
MUTATION = "typed_mutation"


@dataclass(frozen=True, kw_only=True)
class Design(study.LoopDesign):
    """One format of edits, asked of one model about one pool of parents.

    Attributes:
        form: the format, by its name in ``edits.FORMATS``.
        prompt: ``delta``: each format's own prompt; or one prompt for all, with the field form.
        cycles: how often parents are edited and the model is tuned.
        samples: edits of a cycle; parents are taken in turn, in an order drawn anew.
        parents: how many networks are drawn to be edited.
        retries: how often what could not be used is asked for again, with the reason [C].
        examples: pairs of published networks that the model is tuned on before each cycle.
        family: the only one that parents and pairs are drawn from, as in the authors' later code [C]; None: all.
        floor: what a parent's accuracy must reach in a training that decides nothing else; 0.40 is what D admits [P].
        context: lines around a change in the answers that the model is tuned on.
        corpus: ``lemur``, or ``narrow`` (LEMUR at reduced width).
    """

    NOT_HASHED = ("cycles",)  # more cycles continue a run

    form: str = "unified_diff"
    cycles: int = 1
    parents: int
    retries: int = 2
    examples: int
    family: str | None = None
    floor: float = 0.40
    context: int = CONTEXT
    corpus: str = "narrow"

    def __post_init__(self):
        named("format", self.form, FORMATS)
        super().__post_init__()
        if min(self.parents, self.examples) < 1 or self.retries < 0:
            raise UsageError(f"design {self.name!r} is too small", "parents and examples count from 1, retries from 0")


# The choice "shuffled" draws by lot which network of a pair is the better one: the format can be learnt, what is
# better cannot. The choice "grown" puts children that beat their parents before the published pairs.
ARMS = Named(
    "arm",
    Arm("static corpus", "tuned on published pairs before each cycle, as paper D says"),
    Arm("growing corpus", "and on children that beat their parents, as its companion says", choice="grown"),
    Arm("shuffled targets", "tuned on pairs whose better network is drawn by lot", choice="shuffled"),
    Arm("no tuning", "the base model", tuned=False),
    Arm("random mutation", "no language model: a typed mutation at random", proposer="mutation", tuned=False),
)

PAPER = Design(
    "paper-d",
    "[P] model (one of three), LoRA, decoding, 22 cycles of 50, 3 passes over the static corpus a cycle; [C] two "
    "retries, pairs of all networks of a data set. [I] learning rate, 1,698 pairs (paper B's). Lab: CIFAR-10 alone, "
    "networks of at most 500,000 weights, a pool of 50 parents",
    coder="Qwen2.5-Coder-7B",
    prompt="delta",
    protocol="paper-b",
    decoding=Decoding(temperature=0.35, top_k=50, top_p=0.9, max_new_tokens=1024),
    recipe=Recipe(epochs=3, gradient_checkpointing=True, layers=None),
    cycles=22,
    samples=50,
    parents=50,
    examples=1698,
    corpus="lemur",
    batch=16,
)

GPU = replace(
    PAPER,
    name="small-delta",
    source="lab: a small coder on one GPU in minutes, whatever its size up to some billion weights; LEMUR at reduced "
    "width and digits, trained on the CPU beside it, and of its families the one whose networks learn there, mutations "
    "of what a genetic algorithm found. Decoding and retries as published, answers of at most 640 tokens",
    coder="Qwen2.5-Coder-0.5B",
    protocol="digits-loop",
    decoding=replace(PAPER.decoding, max_new_tokens=640),
    recipe=Recipe(lr=2e-4, epochs=2, batch=8, accumulate=1, warmup=0.1, layers=None),
    cycles=1,
    samples=48,
    parents=24,
    examples=64,
    family="ga-mut",
    floor=0.3,
    corpus="narrow",
    batch=48,
)

DEMO = replace(
    GPU,
    name="nano-delta",
    source="lab: as small-delta with the nano coder on a CPU, whose context is short: one short prompt for all "
    "formats, answers of at most 320 tokens, one line of context",
    coder="nano-coder",
    prompt="delta_nano",
    decoding=Decoding(temperature=0.8, top_k=50, top_p=0.9, max_new_tokens=320),
    recipe=Recipe(lr=3e-3, epochs=1, batch=4, accumulate=1, warmup=0.1),
    samples=5,
    parents=5,
    examples=8,
    context=1,
)

SHORT = replace(DEMO.decoding, max_new_tokens=160)
SMOKE = replace(DEMO, name="nano-delta-smoke", decoding=SHORT, samples=2, parents=2, examples=2, retries=1)

DESIGNS = Named("design", PAPER, GPU, DEMO, SMOKE)


def get_formats(names: str) -> list[str]:
    """Formats by their names, separated by commas, or ``all``; UsageError if there is no such one."""
    return [form.name for form in all_named("format", names, FORMATS)]
