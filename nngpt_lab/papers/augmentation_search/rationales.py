"""What a transform is written as in a training text: the code alone, or a rationale and then the code.

    answer("direct", references, code)     <tr>code</tr>
    answer("cot", references, code)        Reference 1 uses ... and reaches 0.52. ... Keep ... <tr>code</tr>

The rationale is a template over the operations of references and code and over the references' scores. No model has
reasoned here: what a model tuned on it learns is to write this template, so it stands for the *form* of chain of
thought (more words before the code, and operations named before they are used), not for thinking.
"""

from __future__ import annotations

from collections.abc import Sequence

from nngpt_lab.corpora.augmentations import parse_pipeline
from nngpt_lab.ground.names import named

STYLES = ("direct", "cot")


def answer(style: str, references: Sequence[tuple[str, float]], code: str) -> str:
    """The answer of a training pair in a style: ``direct`` (paper A's: ``<tr>code</tr>``) or ``cot`` (:func:`rationale`
    on the lines before it). ``references``: (code, score in [0, 1]) of each reference in the prompt, in the prompt's
    order; ``code``: the better transform."""
    named("style", style, dict.fromkeys(STYLES))
    final = f"<tr>{code}</tr>"
    return final if style == "direct" else f"{rationale(references, code)}\n{final}"


def rationale(references: Sequence[tuple[str, float]], code: str) -> str:
    """What the references do and reach, and what the code takes over from them: a template, no model's reasoning.

    One sentence for each reference, one for the code, each on a line of its own. An operation is *kept* if a reference
    has it with the same parameters, *changed* if only with others, *added* if no reference has it; *avoided* are those
    of the references that the code lacks. The code's own score is left out: a model that writes cannot know it.

    >>> tail = "transforms.Resize((64, 64)), transforms.ToTensor(), transforms.Normalize(*norm)"
    >>> code = "def transform(norm): return transforms.Compose([transforms.{}, " + tail + "])"
    >>> print(rationale([(code.format("RandomCrop(24)"), 0.521)], code.format("RandomCrop(30)")))
    Reference 1 uses RandomCrop and reaches 0.52.
    So change RandomCrop.
    """
    known: dict[str, list[dict]] = {}
    lines = []
    for place, (reference, score) in enumerate(references, start=1):
        steps = _steps(reference)
        for name, parameters in steps:
            known.setdefault(name, []).append(parameters)
        used = _listed([name for name, _ in steps]) or "no operation"
        lines.append(f"Reference {place} uses {used} and reaches {score:.2f}.")
    decisions: dict[str, list[str]] = {"keep": [], "change": [], "add": [], "avoid": []}
    steps = _steps(code)
    for name, parameters in steps:
        decisions["add" if name not in known else "keep" if parameters in known[name] else "change"].append(name)
    decisions["avoid"] = [name for name in known if name not in {own for own, _ in steps}]
    said = [f"{verb} {_listed(names)}" for verb, names in decisions.items() if names]
    return "\n".join([*lines, f"So {', '.join(said) or 'use no operation'}."])


def _steps(code: str) -> list[tuple[str, dict]]:
    """Operations with their parameters, without the fixed tail; none where the code does not show them."""
    try:
        pipeline = parse_pipeline(code)
    except (SyntaxError, ValueError):
        return []
    return list(zip(pipeline.operations, pipeline.parameters, strict=True))


def _listed(names: Sequence[str]) -> str:
    """``A``, ``A and B``, ``A, B and C``; a name that occurs twice is listed once."""
    names = list(dict.fromkeys(names))
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
