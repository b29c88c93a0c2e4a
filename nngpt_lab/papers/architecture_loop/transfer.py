"""Paper B, version 2: does what the model learnt on one data set carry over to another, without tuning again?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from nngpt_lab.candidates.pool import open_pool
from nngpt_lab.candidates.protocols import Protocol
from nngpt_lab.candidates.proxy import prepare
from nngpt_lab.ground.seeds import derive
from nngpt_lab.papers.architecture_loop.design import ARMS, KEY
from nngpt_lab.papers.architecture_loop.lab import Lab
from nngpt_lab.papers.architecture_loop.pairs import messages
from nngpt_lab.study.lab import ArmRun
from nngpt_lab.study.proposals import score, write


def transfer(lab: Lab, seeds: Sequence[int], protocol: Protocol, samples: int, workers: int = 2) -> pd.DataFrame:
    """Networks by the base model and by each seed's tuned model, trained and scored on another data set.

    Args:
        lab: in which the arm ``loop`` has run all its cycles with these seeds.
        protocol: how networks are scored there; the prompt names its images, if it names any.
        samples: texts of each model for each seed. A seed's two models share prompts and seeds of sampling; each seed
            draws its own, so that differences between the two are independent over seeds.

    Returns:
        One row per sample, as :func:`score` gives, with ``model``: ``base`` or ``tuned``, and ``seed``.
    """
    fields = dict(lab.design.fields)
    fields |= {"dataset": protocol.images} if "dataset" in fields else {}
    design = replace(lab.design, fields=tuple(fields.items()), images=None)
    proxy = prepare(protocol, device=lab.proxy.device)
    tables = []
    with open_pool(proxy, min(workers, samples)) as pool:  # a worker takes seconds to start
        there = replace(lab, design=design, proxy=proxy, pool=pool)

        def evaluated(model: str, seed: int, coder) -> pd.DataFrame:
            name = f"{ArmRun(ARMS['loop'], seed).name(there)} transfer {model}"
            asked = [messages(design, "transfer", seed, i) for i in range(samples)]
            drawn = [derive(KEY, "sampling", "transfer", seed, i) for i in range(samples)]
            rows = score(there, write(there, name, asked, drawn, coder), seed)[1]
            return rows.assign(model=model, seed=seed)

        for seed in seeds:
            tables.append(evaluated("base", seed, lambda: lab.coder))
            with ArmRun(ARMS["loop"], seed).state(lab) as state:
                tables.append(evaluated("tuned", seed, lambda state=state: state.coder(lab.design.cycles)))
    return pd.concat(tables, ignore_index=True)
