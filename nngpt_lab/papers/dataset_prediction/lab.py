"""What all runs of one model share in paper C, and what one run is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import pandas as pd

from nngpt_lab.ground.hashing import sha256_json
from nngpt_lab.llm.prompts import prompt
from nngpt_lab.papers.dataset_prediction.design import Design
from nngpt_lab.study import lab as study


@dataclass(frozen=True)
class Lab(study.Lab[Design]):
    """One bare model, all questions, and code by architecture."""

    questions: pd.DataFrame
    code: Mapping[str, str]


@dataclass(frozen=True)
class Run(study.Run):
    """One training: which prompt, on what, and from which seed."""

    prompt: str
    split: str
    part: str
    question_set: str
    seed: int

    def name(self, lab: Lab) -> str:
        """From design, model, prompt and all of the run's own fields."""
        form = prompt(f"{lab.design.style}_{self.prompt}")
        key = sha256_json([lab.design.hash(), lab.coder.identity, form.sha256])[:10]
        words = f"{lab.coder.name} {' '.join(str(value) for value in asdict(self).values())} {key}"
        return words.replace(" ", "-").replace("/", "-")
