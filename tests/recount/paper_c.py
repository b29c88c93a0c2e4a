"""Paper C's questions and what answers them without a language model, from LEMUR's records and sources."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from tests.recount.interval import Found, clustered
from tests.recount.published import SEVEN, family, same_program

FOLDS = 2  # draws of a fifth of the programs


def questions(records: pd.DataFrame, sources: pd.Series) -> pd.DataFrame:
    """One row per architecture and two data sets: name, family, program, a, b (alphabetical), a_wins.

    The accuracy of an architecture on a data set is its best at epoch 5, as a share of the best that any reaches there,
    to four digits; of equal ones the one with the smaller key in the authors' data base wins.
    """
    at_five = records[(records["epoch"] == 5) & records["dataset"].isin(SEVEN)]
    best = at_five.sort_values(["accuracy", "id"], ascending=[False, True]).drop_duplicates(["dataset", "name"])
    best = best.assign(normed=(best["accuracy"] / best.groupby("dataset")["accuracy"].transform("max")).round(4))
    best = best[["name", "dataset", "normed", "id"]]
    table = best.merge(best, on="name", suffixes=("", "_b")).query("dataset < dataset_b")
    ties = (table["normed"] == table["normed_b"]) & (table["id"] < table["id_b"])
    table = table.assign(a_wins=(table["normed"] > table["normed_b"]) | ties, family=table["name"].map(family))
    table = table.rename(columns={"dataset": "a", "dataset_b": "b"}).sort_values(["name", "a", "b"], ignore_index=True)
    program = sources.reindex(table["name"].unique()).map(same_program)
    return table.assign(program=table["name"].map(program).to_numpy(), pair=table["a"] + " " + table["b"])


def balanced(table: pd.DataFrame, within: list[str], rng: np.random.Generator) -> pd.DataFrame:
    """As many questions that the one data set wins as the other, within pairs (and families)."""
    sides = table.sample(frac=1, random_state=rng)
    place = sides.groupby([*within, "a_wins"]).cumcount()
    fewer = sides.groupby(within)["a_wins"].transform(lambda wins: min(wins.sum(), (~wins).sum()))
    return sides[place < fewer]


def divided(table: pd.DataFrame, rng: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training questions, and those of a fifth of the programs."""
    programs = np.sort(table["program"].unique())
    held = set(rng.choice(programs, len(programs) // 5, replace=False))
    inside = table["program"].isin(held)
    return table[~inside], table[inside]


# ----------------------------------------------------------------------------------------------------------- answerers


def by_share(train: pd.DataFrame, test: pd.DataFrame, keys: list[str]) -> np.ndarray:
    """Whoever won more often in training, within ``keys``: 1 right, 0 wrong, one half where it was a draw."""
    share = train.groupby(keys)["a_wins"].mean().rename("share")
    said = test[keys].merge(share, left_on=keys, right_index=True, how="left")["share"].fillna(0.5).to_numpy()
    return np.where(said == 0.5, 0.5, (said > 0.5) == test["a_wins"].to_numpy())


def by_code(train: pd.DataFrame, test: pd.DataFrame, sources: pd.Series) -> np.ndarray:
    """Logistic regression: each data set has a strength that is linear in TF-IDF of the first 2,000 characters, each
    pair a bias; the stronger one wins."""
    names = train["name"].unique()
    words = TfidfVectorizer(token_pattern=r"[A-Za-z_]\w*|\d+", ngram_range=(1, 2), min_df=2, max_features=1000,
                            sublinear_tf=True).fit(sources[names].str[:2000])  # fmt: skip
    pairs = {pair: place for place, pair in enumerate(sorted(set(train["pair"])))}

    def design(part: pd.DataFrame) -> sparse.csr_matrix:
        own = part["name"].unique()
        read = words.transform(sources[own].str[:2000])[pd.Index(own).get_indexer(part["name"])]
        signs = [(part["a"] == name).astype(float) - (part["b"] == name) for name in SEVEN]
        blocks = [sparse.diags(sign.to_numpy()) @ read for sign in signs]
        place = part["pair"].map(pairs).fillna(len(pairs)).astype(int)
        bias = sparse.csr_matrix((np.ones(len(part)), (np.arange(len(part)), place)), (len(part), len(pairs) + 1))
        return sparse.hstack([*blocks, bias], format="csr")

    model = LogisticRegression(fit_intercept=False, max_iter=300, tol=1e-4).fit(design(train), train["a_wins"])
    return (model.predict(design(test)) == test["a_wins"]).to_numpy(float)


# -------------------------------------------------------------------------------------------------------------- numbers


def held_out_programs(table: pd.DataFrame, sources: pd.Series) -> dict[str, Found]:
    """Names alone; and, balanced within pairs, code and the family's name; and code balanced within families."""
    answers: dict[str, list[pd.DataFrame]] = {}
    for fold in range(FOLDS):
        rng = np.random.default_rng(fold)
        train, test = divided(table, rng)
        sides = {"all": (train, test)} | {
            kind: tuple(balanced(side, within, rng) for side in (train, test))
            for kind, within in (("pair", ["pair"]), ("family", ["pair", "family"]))
        }
        right = {
            "names": by_share(*sides["all"], ["pair"]),
            "code": by_code(*sides["pair"], sources),
            "family": by_share(*sides["pair"], ["pair", "family"]),
            "code within families": by_code(*sides["family"], sources),
        }
        for name, values in right.items():
            tested = sides["all" if name == "names" else "family" if "within" in name else "pair"][1]
            answers.setdefault(name, []).append(tested.assign(right=values))
    whole = {name: pd.concat(parts) for name, parts in answers.items()}
    return {name: clustered(100 * part["right"], part["program"]) for name, part in whole.items()}


def held_out_families(table: pd.DataFrame, sources: pd.Series) -> Found:
    """Code, balanced within pairs, each family in turn never trained on."""
    parts = []
    for place, name in enumerate(sorted(table["family"].unique())):
        rng, inside = np.random.default_rng(place), table["family"] == name
        copies = table["program"].isin(table.loc[inside, "program"])
        train, test = balanced(table[~inside & ~copies], ["pair"], rng), balanced(table[inside], ["pair"], rng)
        if len(test):
            parts.append(test.assign(right=by_code(train, test, sources)))
    whole = pd.concat(parts)
    return clustered(100 * whole["right"], whole["program"])


def halves(records: pd.DataFrame) -> pd.DataFrame:
    """Each question answered twice, from one random half of the trials and the other: name, a, b, first, second."""
    at_five = records[(records["epoch"] == 5) & records["dataset"].isin(SEVEN)].sample(frac=1, random_state=0)
    half = at_five.groupby(["dataset", "name"]).cumcount() % 2
    normed = at_five["accuracy"] / at_five.groupby("dataset")["accuracy"].transform("max")
    best = normed.groupby([at_five["name"], at_five["dataset"], half]).max().unstack().dropna()
    best = best.rename(columns={0: "one", 1: "other"}).reset_index()
    table = best.merge(best, on="name", suffixes=("", "_b")).query("dataset < dataset_b")
    answers = {"first": table["one"] >= table["one_b"], "second": table["other"] >= table["other_b"]}
    return table.rename(columns={"dataset": "a", "dataset_b": "b"})[["name", "a", "b"]].assign(**answers)


def agreement(both: pd.DataFrame, label: str) -> float:
    """Per cent of the questions that both halves answer alike, weighted so that within each pair either answer of the
    column ``label`` is as frequent as the other."""
    sides = both.groupby(["pair", label])["name"].transform("size")
    fewer = both.groupby("pair")[label].transform(lambda wins: min(wins.sum(), (~wins).sum()))
    return float(100 * np.average(both["first"] == both["second"], weights=fewer / sides))


def ceiling(agreed: float) -> float:
    """Per cent that a reader reaches who names the likelier answer, where two draws of the label agree so often."""
    return float(50 * (1 + np.sqrt(2 * agreed / 100 - 1)))


# ------------------------------------------------------------------------------------------------------ language models


def numbered(table: pd.DataFrame) -> pd.DataFrame:
    """The questions by the numbers that answers are filed under: an architecture's best records in the order of their
    keys, each with each later one. Columns program, first_wins (of the record with the smaller key)."""
    keys = np.sort(table[["id", "id_b"]], axis=1)
    ordered = table.assign(
        first=keys[:, 0], second=keys[:, 1], first_wins=table["a_wins"] ^ (table["id"] > table["id_b"])
    )
    return ordered.sort_values(["name", "first", "second"], ignore_index=True)[["program", "first_wins"]]


def decided(answers: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """A row per run, file and question: whether the likelier name, over both orders, is right (1, 0; a draw one half),
    and the question's program."""
    odds = answers.groupby(["run", "file", "subset", "question"], dropna=False)["log_odds"].mean().reset_index()
    truth = numbered(table).iloc[odds["question"]]
    signs = np.sign(odds["log_odds"]) * np.where(truth["first_wins"], 1, -1)
    return odds.assign(right=(signs.to_numpy() + 1) / 2, program=truth["program"].to_numpy())


def tuned(rows: pd.DataFrame, prompt: str, division: str) -> pd.DataFrame:
    """The test answers of the runs with a prompt and a division of the questions, each at the outer epoch after tuning
    that has the most right answers on the validation questions, the last of equals. All test questions count, so that
    this is not for the division as published, where the paper's first 30 are asked, too."""
    own = rows[rows["run"].str.fullmatch(rf"[\w-]+?-{prompt}-{division}-\d+-[0-9a-f]+") & (rows["file"] > "answers-00")]
    own = own[own["file"].str.startswith("answers-")]
    held = own[own["subset"] == "validation"].groupby(["run", "file"])["right"].mean().reset_index()
    best = held.sort_values(["right", "file"]).drop_duplicates("run", keep="last")[["run", "file"]]
    return own[own["subset"] == "test"].merge(best, on=["run", "file"])


def altered(rows: pd.DataFrame, condition: str, division: str) -> Found:
    """Per cent right where the input of the tuned models was altered."""
    own = rows[rows["run"].str.contains(f"-code-{division}-") & rows["file"].str.startswith(f"altered-{condition}-")]
    return clustered(100 * own["right"], own["program"])
