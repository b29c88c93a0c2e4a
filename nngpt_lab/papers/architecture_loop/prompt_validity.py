"""How often a model's first networks can be trained at all, by the prompt that asks for them; nothing is tuned.

Paper B's prompt lists what a network must have; a model that forgets one of these things writes nothing that counts.
The same prompt with the contract as a skeleton to fill shows how much of a model's failure is the form alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.ground.hashing import sha256_json
from nngpt_lab.ground.seeds import SCHEME, derive
from nngpt_lab.llm.prompts import identity, prompt
from nngpt_lab.papers.architecture_loop.design import KEY, Design, filled
from nngpt_lab.papers.architecture_loop.figures import STATUSES
from nngpt_lab.papers.architecture_loop.pairs import messages
from nngpt_lab.records.results import Results
from nngpt_lab.sandbox.status import VALID, Status
from nngpt_lab.statistics import intervals
from nngpt_lab.statistics.plots import legend_right, name_rows, stack
from nngpt_lab.statistics.style import new_figure
from nngpt_lab.study.lab import open_bench
from nngpt_lab.study.proposals import score, write

GROUP = ["model", "prompt"]


def run_prompts(
    results: Results, design: Design, coders: Sequence[str], prompts: Sequence[str], count: int, seed: int, workers: int
) -> pd.DataFrame:
    """``count`` networks of every model and prompt, trained where they can be, or read back from the ledger: a row
    each, model, prompt, position, status, score, parameters, tokens, message (what the contract found missing)."""
    tables = []
    with Ledger(results.ledger_file) as ledger:
        for coder in coders:
            own, folder = replace(design, coder=coder), results.folder / "prompts"
            device = results.profile.device
            with open_bench(own, pd.DataFrame, ledger, folder, device=device, workers=workers) as bench:
                for name in prompts:
                    fields = tuple(
                        (field, value) for field, value in filled(own).items() if field in prompt(name).fields
                    )
                    asking = replace(own, prompt=name, fields=fields)
                    asked = [messages(asking, seed, "prompts", i) for i in range(count)]
                    seeds = [derive(KEY, "sampling", seed, "prompts", i) for i in range(count)]
                    key = [bench.coder.identity, identity(name), fields, vars(own.decoding), own.batch, seed, SCHEME]
                    written = write(bench, f"{sha256_json(key)[:10]} {name}", asked, seeds, lambda: bench.coder)
                    screened, rows = score(bench, written, seed)
                    said = {"model": bench.coder.name, "prompt": name, "message": [each.message for each in screened]}
                    tables.append(rows.assign(**said))
    return pd.concat(tables, ignore_index=True)


def validity(candidates: pd.DataFrame) -> pd.DataFrame:
    """Columns model, prompt, n, valid, valid_low, valid_high (shares, Wilson), best, mean (scores of those trained)."""
    rows = []
    for group, part in candidates.groupby(GROUP, sort=False):
        valid = intervals.wilson(part["status"].isin(VALID).sum(), len(part))
        rows.append((*group, len(part), valid.value, valid.low, valid.high, part["score"].max(), part["score"].mean()))
    return pd.DataFrame(rows, columns=[*GROUP, "n", "valid", "valid_low", "valid_high", "best", "mean"])


def causes(candidates: pd.DataFrame) -> pd.DataFrame:
    """Why samples failed: columns model, prompt, status, cause, count, the most frequent first. A sample that lacks
    several things counts for each."""
    failed = candidates[~candidates["status"].isin(VALID)]
    # "line 3: what is wrong: what to do; what else is wrong: ..."; where a text does not parse, the reason comes last
    message = failed["message"].str.replace(r"\bline \d+: | on line \d+", "", regex=True)
    each = failed.assign(cause=message.str.split(r"; (?!it )", regex=True)).explode("cause")
    each["cause"] = each["cause"].where(each["status"] == Status.SYNTAX, each["cause"].str.partition(": ")[0])
    counted = each.groupby([*GROUP, "status", "cause"], sort=False).size().rename("count").reset_index()
    return counted.sort_values([*GROUP, "count"], ascending=[True, True, False], kind="stable", ignore_index=True)


def endings(candidates: pd.DataFrame) -> Figure:
    """How the samples ended, a bar for each model and prompt, per cent."""
    wide = 100 * pd.crosstab([candidates[name] for name in GROUP], candidates["status"], normalize="index")
    names = [f"{model}\n{prompt.replace('_', ' ')}" for model, prompt in wide.index]
    figure, ax = new_figure(width=9, height=1.4 + 0.6 * len(wide))
    stack(ax, wide.reset_index(drop=True), {name: look for name, look in STATUSES.items() if name in wide})
    ax.set(xlabel="samples, %", xlim=(0, 100))
    name_rows(ax, names)
    legend_right(figure)
    return figure
