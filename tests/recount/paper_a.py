"""Paper A's scored functions: what their operations predict, how a regression searches them, how noisy one epoch is."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.linear_model import LinearRegression, RidgeCV

from tests.recount.interval import Found, student

ACCEPTED = 0.40  # the authors' threshold of their training pool


def indicators(table: pd.DataFrame) -> pd.DataFrame:
    """0/1 per operation."""
    return pd.DataFrame([{name: 1.0 for name, _ in used} for used in table["steps"]]).fillna(0.0).sort_index(axis=1)


def described(table: pd.DataFrame) -> np.ndarray:
    """Operations as 0/1, and their arguments from -1/2 to 1/2 over their range, 0 where there is none; shape (n, k)."""
    columns = indicators(table)
    rows = []
    for used in table["steps"]:
        row = {}
        for name, given in used:
            for key, value in given.items():
                for place, part in enumerate(value if isinstance(value, tuple | list) else [value]):
                    word = isinstance(part, str)
                    row[f"{name} {key} {place} {part if word else ''}"] = np.nan if word else float(part)
                    if word:
                        row[f"{name} {key} {place} {part}"] = np.inf
        rows.append(row)
    given = pd.DataFrame(rows)
    words = given.isin([np.inf]).any()
    numbers, spread = given.loc[:, ~words], given.loc[:, ~words].max() - given.loc[:, ~words].min()
    scaled = ((numbers - numbers.min()) / spread.replace(0, np.nan) - 0.5).fillna(0.0)
    return np.hstack([columns, scaled, given.loc[:, words].notna().to_numpy(float)])


# -------------------------------------------------------------------------------------------------------- LLM's choice


def cues(table: pd.DataFrame) -> dict[str, Found]:
    """Points of predicted accuracy of the LLM's functions over accepted ones of as many operations: taken alike, and as
    often as each is the better one of a training pair."""
    scored = table[table["score"].notna()]
    used = indicators(scored)
    model = LinearRegression().fit(used, scored["score"])
    llm, sizes = table[table["by_llm"]], set(table.loc[table["by_llm"], "steps"].map(len))
    pool = scored[scored["steps"].map(len).isin(sizes) & (scored["score"] >= ACCEPTED)]
    said, ours = (model.predict(indicators(part).reindex(columns=used.columns, fill_value=0.0)) for part in (pool, llm))
    score, code = pool["score"].to_numpy(), pd.factorize(pool["code"])[0]
    better = (score[None] > score[:, None]) & (code[None] != code[:, None])  # row: the question, column: the answer
    chosen = np.divide(better, better.sum(1, keepdims=True), where=better.any(1)[:, None], out=np.zeros(better.shape))
    copied = (chosen.sum(0) * said).sum() / chosen.sum()
    return {"corpus": student(100 * (ours - said.mean())), "tuning targets": student(100 * (ours - copied))}


# -------------------------------------------------------------------------------------------------------------- search


def ridge_search(
    table: pd.DataFrame, universes: int = 200, size: int = 2000, start: int = 50
) -> tuple[np.ndarray, Found]:
    """How many times fewer functions ridge regression evaluates than a random order until it meets one of the best two
    of ``size``: both counts, shape (2, universes), the random order's first, and the ratio of their means with an
    interval by a bootstrap over universes."""
    distinct = table[~table["by_llm"]].drop_duplicates("code").reset_index(drop=True)
    read, scores = described(distinct), distinct["score"].to_numpy()
    used, random = [], []
    for seed in range(universes):
        drawn = np.random.default_rng(1000 + seed).permutation(len(distinct))[:size]
        x, y = read[drawn], scores[drawn]
        known = np.flatnonzero(~np.isnan(y[:start]))
        guess = RidgeCV(np.logspace(-3, 3, 13)).fit(x[known], y[known]).predict(x[start:])
        order = np.r_[np.arange(start), start + np.argsort(-guess, kind="stable")]
        second_best = np.sort(y[~np.isnan(y)])[-2]
        good = y >= second_best
        used.append(np.flatnonzero(good[order])[0] + 1)
        random.append((size + 1) / (good.sum() + 1))
    both, rng = np.array([random, used], float), np.random.default_rng(0)
    draws = [np.divide(*both[:, rng.integers(0, universes, universes)].mean(1)) for _ in range(1000)]
    return both, Found(float(np.divide(*both.mean(1))), *np.quantile(draws, [0.025, 0.975]))


# --------------------------------------------------------------------------------------------------------------- noise


def noise(table: pd.DataFrame) -> tuple[float, float]:
    """SD of a score when the same code is run again, and the share of the variance between codes that is not noise."""
    scored = table[table["score"].notna() & ~table["by_llm"]]
    groups = scored.groupby("code")["score"]
    inside = float(np.sqrt(((scored["score"] - groups.transform("mean")) ** 2).sum() / (len(scored) - groups.ngroups)))
    return inside, 1 - inside**2 / scored.drop_duplicates("code")["score"].var()


def flips(table: pd.DataFrame, least: float = 0.0, draws: int = 20000) -> float:
    """Share of training pairs (a function, and a strictly better one of other code) whose order a second run of both
    turns round, where true scores and noise are normal: simulated, not computed.

    ``least``: only functions from this score up are paired; more of what tells their scores apart is noise.
    """
    pool = table[(table["score"] >= least) & ~table["by_llm"]]
    inside, rng = noise(table)[0], np.random.default_rng(0)
    kept = 1 - inside**2 / pool.drop_duplicates("code")["score"].var()
    score, code = pool["score"].to_numpy(), pd.factorize(pool["code"])[0]
    turned = []
    for one in rng.integers(0, len(pool), draws):
        better = np.flatnonzero((score > score[one]) & (code != code[one]))
        if len(better):
            gap = score[rng.choice(better)] - score[one]
            true = rng.normal(kept * gap, inside * np.sqrt(2 * kept))
            turned.append(true + rng.normal(0, inside * np.sqrt(2)) < 0)
    return float(np.mean(turned))


# ------------------------------------------------------------------------------------------------------------ ordering


def ridge_ordering(table: pd.DataFrame, draws: int = 100) -> tuple[Found, float]:
    """Share of pairs that ridge regression orders as their scores do, 500 functions to learn from and 500 to test whose
    sets of operations were not among them; and the share that the true scores would order so, where all is normal."""
    scored = table[table["score"].notna() & ~table["by_llm"]].drop_duplicates("code").reset_index(drop=True)
    sets = scored["steps"].map(lambda used: "+".join(sorted({name for name, _ in used})))
    read, score, inside = described(scored), scored["score"].to_numpy(), noise(table)[0]
    right, most = [], []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        held: set[str] = set()
        for _, own in sets.groupby(scored["steps"].map(len)):  # of one, two and three operations a quarter each
            order = pd.Series(rng.permutation(own.unique()))
            held |= set(order[order.map(own.value_counts()).cumsum().shift(fill_value=0) < len(own) / 4])
        tested = rng.permutation(np.flatnonzero(sets.isin(held)))[:500]
        learnt = rng.permutation(np.flatnonzero(~sets.isin(held)))[:500]
        guess = RidgeCV(np.logspace(-3, 3, 13)).fit(read[learnt], score[learnt]).predict(read[tested])
        gaps, guessed = (np.subtract.outer(x, x)[np.triu_indices(len(tested), 1)] for x in (score[tested], guess))
        right.append(np.mean((np.sign(gaps * guessed)[gaps != 0] + 1) / 2))  # a tie is a coin
        most.append(ordered_at_most(gaps[gaps != 0], inside))
    return student(100 * np.array(right)), 100 * float(np.mean(most))


def ordered_at_most(gaps: np.ndarray, inside: float) -> float:
    """Share of pairs with these recorded gaps that the true scores order as recorded, where all is normal."""
    kept = 1 - inside**2 / (np.mean(gaps**2) / 2)
    return float(stats.norm.cdf(np.sqrt(kept) * np.abs(gaps) / (inside * np.sqrt(2))).mean())
