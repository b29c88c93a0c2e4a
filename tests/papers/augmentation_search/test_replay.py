"""The replayed search: likelihoods that are right, rankers that see no score but the start set's, files that resume."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from nngpt_lab.corpora.augmentations import OPERATIONS, parse_pipeline
from nngpt_lab.corpora.code import code_hash, tidy
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.llm import lora, models
from nngpt_lab.papers.augmentation_search import rankers, replay
from nngpt_lab.papers.augmentation_search.rankers import RANKERS, LanguageModel, Task, features, ridge, tpe
from nngpt_lab.papers.augmentation_search.replay import METHODS, TUNED, Replay, get_replay, guesses, ordering, search

CALLS = {
    "Pad": "padding={0}, padding_mode='{1}'",
    "RandomCrop": "size={0}",
    "RandomInvert": "p=0.{0}",
    "RandomRotation": "degrees={0}",
    "Grayscale": "num_output_channels=3",
    "GaussianBlur": "kernel_size=3, sigma=(0.{0}, 1.{0})",
}
EFFECT = {"RandomInvert": -0.1, "Pad": 0.05, "RandomRotation": -0.04}
CODE = """import torch
import torchvision.transforms as transforms

def transform(norm):
    return transforms.Compose([
    {},
    transforms.Resize((64,64)),
    transforms.ToTensor(),
    transforms.Normalize(*norm)
])
"""


def corpus(size: int = 150, seed: int = 0, noise: float = 0.005) -> pd.DataFrame:
    """Functions whose operations have the known effects; every 40th failed."""
    rng, rows = np.random.default_rng(seed), []
    for i in range(size):
        used = rng.choice(sorted(CALLS), 1 + i % 3, replace=False).tolist()
        steps = [f"transforms.{name}({CALLS[name].format(rng.integers(10, 30), 'edge')})" for name in used]
        code = CODE.format(",\n    ".join(steps))
        score = 0.5 + sum(EFFECT.get(name, 0) for name in used) + rng.normal(0, noise)
        rows.append({"code": code, "code_hash": code_hash(code), "score": np.nan if i % 40 == 39 else score})
    table = pd.DataFrame(rows)
    found = [parse_pipeline(code) for code in table["code"]]
    return table.assign(
        status=np.where(table["score"].isna(), "shape", "ok"),
        operations=[list(one.operations) for one in found],
        n_operations=[len(one.operations) for one in found],
        parameters=[pd.Series([list(one.parameters)]).to_json(orient="values")[1:-1] for one in found],
    )


def task(size: int = 150, start: int = 40, **options) -> Task:
    functions = corpus(size, **options).drop_duplicates("code_hash").reset_index(drop=True)
    return Task(functions, np.arange(start), seed=0, tpe_evaluations=30)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> LanguageModel:
    """A model of two small layers with the nano coder's vocabulary, and a tuning of four large steps."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    models.load("nano-coder").tokenizer.save_pretrained(folder)
    config = LlamaConfig(vocab_size=2048, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, intermediate_size=48, eos_token_id=3)  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    recipe = lora.Recipe(rank=2, alpha=2, lr=0.3, epochs=2, batch=4, accumulate=1, warmup=0, targets=("q_proj",))
    return LanguageModel(str(folder), pairs=8, recipe=recipe)


def test_what_is_scored_ends_with_the_first_name_of_the_tail(tiny):
    it = task()
    writer = rankers.Writer(tiny)
    tokenizer = writer._coder.tokenizer
    rows = it.functions[["code", "operations"]].itertuples(index=False)
    for text, (code, operations) in zip(writer._texts(it), rows, strict=True):
        answer = tokenizer.decode(text).rpartition("<tr>")[2]
        assert answer.rstrip("(").endswith("transforms.Resize") and "ToTensor" not in answer
        assert all(f"transforms.{name}(" in answer for name in operations)
        assert tidy(code).startswith(answer)  # in the layout that the nano coder knows


# ------------------------------------------------------------------------------------------------------------ rankers


def test_features_say_what_the_code_says():
    table = features(corpus(60))
    assert set(table["Pad"]) == {0, 1}
    assert (table.loc[table["Pad"] == 0, ["Pad.padding", "Pad.padding_mode=edge"]] == 0).all(axis=None)
    present = table.loc[table["Pad"] == 1]
    assert [present["Pad.padding"].min(), present["Pad.padding"].max()] == [-0.5, 0.5]
    assert {"GaussianBlur.sigma[0]", "GaussianBlur.sigma[1]"} <= set(table)
    assert (table["Grayscale.num_output_channels"] == 0).all()  # it never varies
    assert not table.isna().any(axis=None)


def open_scores(it: Task, guess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scores = it.functions["score"].to_numpy()
    use = ~np.isnan(scores) & (np.arange(len(scores)) >= len(it.start)) & np.isfinite(guess)
    return scores[use], guess[use]


@pytest.mark.parametrize("ranker", ["ridge", "neighbours"])
def test_regressions_find_what_was_planted(ranker):
    it = task()
    assert np.corrcoef(*open_scores(it, RANKERS[ranker](it, LanguageModel())))[0, 1] > 0.6


def test_the_parzen_estimator_evaluates_each_once_and_better_ones_than_the_start_set():
    it = task()
    guess = tpe(it)
    places = np.sort(-guess[np.isfinite(guess)])
    assert places.tolist() == list(range(30))
    assert np.isposinf(guess[it.start]).all() and np.isnan(guess).sum() == len(guess) - 40 - 30
    scores = it.functions["score"]
    assert scores[np.isfinite(guess)].mean() > it.known["score"].mean() + 0.02
    assert np.array_equal(tpe(it), guess, equal_nan=True)


def test_the_parzen_estimator_stops_when_all_is_evaluated():
    it = replace(task(50), tpe_evaluations=500)
    assert not np.isnan(tpe(it)).any()


@pytest.mark.parametrize("ranker", sorted(set(RANKERS) - {"tpe"}))
def test_no_ranker_sees_a_score_outside_the_start_set(ranker, tiny):
    it = task(60, 30)
    rows = np.arange(len(it.functions))
    hidden = it.functions.assign(score=it.functions["score"].where(rows < 30, 1 - it.functions["score"]))
    known, other = RANKERS[ranker](it, tiny), RANKERS[ranker](replace(it, functions=hidden), tiny)
    assert np.array_equal(known, other)


def test_rankers_learn_from_the_start_set(tiny):
    """Otherwise the test before proves nothing: other scores there give other numbers, except to what never learns."""
    it = task(60, 30)
    other = replace(it, functions=it.functions.assign(score=1 - it.functions["score"]))
    for ranker in ("ridge", "neighbours", "tuned"):
        assert not np.allclose(RANKERS[ranker](it, tiny), RANKERS[ranker](other, tiny))
    assert np.array_equal(RANKERS["fewest"](it, tiny), RANKERS["fewest"](other, tiny))


def test_tuning_leaves_the_model_as_it_was_and_shuffling_is_another_tuning(tiny):
    it = task(60, 30)
    base = RANKERS["base"](it, tiny)
    tuned, shuffled = RANKERS["tuned"](it, tiny), RANKERS["shuffled"](it, tiny)
    assert np.array_equal(RANKERS["base"](it, tiny), base)
    assert np.array_equal(RANKERS["tuned"](it, tiny), tuned)
    assert not np.allclose(base, tuned) and not np.allclose(tuned, shuffled)


def test_a_start_set_without_scores_is_refused():
    functions = corpus(20).assign(score=np.nan)
    with pytest.raises(UsageError, match="fewer than two"):
        ridge(Task(functions, np.arange(10), 0))


# ------------------------------------------------------------------------------------------------------------- search


@pytest.fixture
def small(tiny) -> Replay:
    return Replay(2, 2, (10, 20), universe=60, tpe_evaluations=10, llm=tiny, ordering_seeds=1, ordering_start=30,
                  ordering_tests=20)  # fmt: skip


def test_a_search_evaluates_its_start_set_and_then_everything_once(small, tmp_path):
    functions = corpus()
    runs = search(small, functions, tmp_path)
    assert [(run.n0, run.seed) for run in runs[:: len(METHODS)]] == [(10, 0), (10, 1), (20, 0), (20, 1)]
    assert [run.method for run in runs[: len(METHODS)]] == list(METHODS)
    starts = {}
    for run in runs:
        assert run.size == 60
        start = starts.setdefault(run.seed, run.scores[:10])
        assert np.array_equal(run.scores[:10], start, equal_nan=True)  # smaller start sets begin larger ones
        if run.method == "Parzen estimator":
            assert len(run.scores) == run.n0 + 10
        else:
            assert np.array_equal(np.sort(run.scores), np.sort(run.universe), equal_nan=True)
    assert not np.array_equal(starts[0], starts[1], equal_nan=True)


def test_an_interrupted_search_goes_on_and_repeats_nothing(small, tmp_path, monkeypatch):
    functions, made = corpus(), []
    settings = replace(small, methods=("ridge regression", TUNED), start_sizes=(10,))
    ranker = RANKERS["tuned"]

    def breaks(it, llm):
        if made.count("tuned"):
            raise KeyboardInterrupt
        made.append("tuned")
        return ranker(it, llm)

    monkeypatch.setitem(RANKERS, "tuned", breaks)
    with pytest.raises(KeyboardInterrupt):
        search(settings, functions, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    assert len(before) > 2
    monkeypatch.setitem(RANKERS, "tuned", ranker)
    resumed = search(settings, functions, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not list(tmp_path.rglob("*.part"))
    whole = search(settings, functions, tmp_path / "again")
    for one, other in zip(resumed, whole, strict=True):
        assert np.array_equal(one.scores, other.scores, equal_nan=True)


def test_what_is_sent_to_workers_is_not_what_is_ranked_here(small, tmp_path, monkeypatch):
    """joblib reads a task in a thread of its own; to rank it here meanwhile changes it (its features are kept)."""
    sent, ranked = [], []

    def parallel(together, **_):
        return lambda jobs: [sent.append(job[1][0]) for job in jobs]

    monkeypatch.setattr(replay, "parallel", parallel)
    monkeypatch.setattr(replay, "_rank", lambda task, *_: ranked.append(task))
    with pytest.raises(FileNotFoundError):  # nothing was written
        search(small, corpus(), tmp_path, workers=1)
    assert sent and ranked and not {id(task) for task in sent} & {id(task) for task in ranked}


def test_other_scores_or_settings_are_not_read_from_the_same_files(small, tmp_path):
    settings = replace(small, methods=("ridge regression",), start_sizes=(10,), seeds=1)
    functions = corpus()
    search(settings, functions, tmp_path)
    search(replace(settings, seeds=2), functions, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1  # more seeds go on
    search(replace(settings, universe=50), functions, tmp_path)
    search(settings, functions.assign(score=functions["score"] / 2), tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_methods_guess_is_the_difference_of_its_rankers():
    ranked = {"tuned": np.array([3.0, 2.0]), "base": np.array([1.0, 2.0])}
    assert guesses(TUNED, ranked).tolist() == [2, 0]
    assert guesses("LLM, untuned (likelihood)", ranked).tolist() == [1, 2]


def test_settings_that_cannot_be_are_refused(small, tmp_path):
    with pytest.raises(UsageError, match="draw a larger universe"):
        search(replace(small, universe=20), corpus(), tmp_path)
    with pytest.raises(UsageError, match="did you mean 'ridge regression'"):
        replace(small, methods=("ridge regresion",))
    with pytest.raises(UsageError, match="too small"):
        replace(small, start_sizes=(1,))
    with pytest.raises(UsageError, match="did you mean 'demo'"):
        get_replay("dmo")
    assert not list(tmp_path.iterdir())


# ----------------------------------------------------------------------------------------------------------- ordering


def test_ordering_tests_each_method_four_times_on_functions_it_never_learnt_from(small, tmp_path):
    functions = corpus(240, noise=0.001)
    doubled = functions.assign(score=functions["score"] + 0.001)  # every code once more, so that there is noise
    methods = ("ridge regression", TUNED, "Parzen estimator")
    settings = replace(small, methods=methods, ordering_seeds=2, slow_ordering_seeds=1)
    table = ordering(settings, pd.concat([functions, doubled]), tmp_path, np.random.default_rng(0), 50)
    assert table.groupby("method")["seed"].value_counts().to_dict() == {
        ("ridge regression", 0): 4, ("ridge regression", 1): 4, (TUNED, 0): 4,
    }  # fmt: skip
    own = table[table["accuracy"].notna()].groupby("method")["accuracy_low"].count()  # one draw has its own interval
    assert own["ridge regression"] == 0 and own[TUNED] > 0
    table = table[table["seed"] == 0]
    found = table.set_index(["test", "method"])["accuracy"]
    assert found["held-out operations", "ridge regression"] > 0.75
    assert found["names masked", "ridge regression"] == pytest.approx(found["held-out operations", "ridge regression"])
    assert found["names exchanged", "ridge regression"] < 0.75
    assert table["oracle"].dropna().between(0.5, 1).all()
    pairs = table.set_index(["test", "method"])["pairs"]
    assert pairs["only parameters differ", TUNED] < pairs["held-out operations", TUNED]


def test_exchanged_names_are_nobodys_own(small):
    functions = corpus(240).dropna(subset="score").drop_duplicates("code_hash").reset_index(drop=True)
    it = replay._ordering_task(functions, small, seed=0)
    n0 = len(it.start)
    tests = (len(it.functions) - n0) // 2
    plain, exchanged = it.functions["operations"][n0 : n0 + tests], it.functions["operations"][n0 + tests :]
    for before, after in zip(plain, exchanged, strict=True):
        assert all(a != b for a, b in zip(before, after, strict=True)) and set(after) <= set(OPERATIONS)
    assert not set(map(frozenset, it.known["operations"])) & set(map(frozenset, plain))
    masked = replay._masked(it)
    assert all(name.startswith("OP") for used in masked.functions["operations"] for name in used)
    assert not any(f"{name}(" in code for name in OPERATIONS for code in masked.functions["code"])


def test_slow_rankers_search_the_first_universes_only(small, tmp_path):
    functions = corpus()
    runs = search(replace(small, seeds=3, slow_seeds=1, start_sizes=(10,)), functions, tmp_path)
    seeds = pd.DataFrame([(run.method, run.seed) for run in runs], columns=["method", "seed"]).groupby("method")["seed"]
    assert seeds.nunique().to_dict() == {
        name: 1 if {"tpe", "base", "tuned", "shuffled"} & {*METHODS[name]} else 3 for name in METHODS
    }
    first = search(replace(small, seeds=1, slow_seeds=1, start_sizes=(10,)), functions, tmp_path)
    mine = {run.method: run.scores for run in runs if run.seed == 0}
    assert all(np.array_equal(run.scores, mine[run.method], equal_nan=True) for run in first)
