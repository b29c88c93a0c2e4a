"""Paper C's baselines on synthetic questions: what each can and cannot know."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config
from threadpoolctl import threadpool_limits

from nngpt_lab.papers.dataset_prediction import baselines as db
from nngpt_lab.papers.dataset_prediction import questions as dq

SOME = ["cifar-10", "imagenette", "mnist", "svhn"]
DETERMINISTIC = [name for name in db.BASELINES if name != "chance"]
READ_CODE = ["code_logistic", "code_boosting", "code_and_names"]
FILLER = "import torch\nimport torch.nn as nn\n\nclass Net(nn.Module):\n    def forward(self, x):\n        return x\n"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in joblib's workers: on a busy machine the threads of tiny fits would wait for each other for minutes."""
    with threadpool_limits(1):
        yield


def make(winner, rng: np.random.Generator, architectures: int = 160) -> tuple[pd.DataFrame, dict[str, str]]:
    """All pairs of four data sets for each architecture; ``winner(kind, first, second)`` answers.

    Half of the architectures are of kind "wide", half "deep", and their code says so among words that say nothing.
    """
    rows, code = [], {}
    for i in range(architectures):
        kind = ("wide", "deep")[i % 2]
        noise = " ".join(f"word{k}" for k in rng.integers(0, 40, 15))
        code[f"net-{i}"] = f"{FILLER}# {noise}\n{kind}_block = nn.{kind.title()}(64)\n"
        for pair in combinations(SOME, 2):
            first, second = rng.permutation(pair)
            row = {"architecture": f"net-{i}", "group": f"group-{i}", "family": f"family-{i % 3}", "kind": kind}
            row |= {"dataset_1": str(first), "dataset_2": str(second), "pair": " / ".join(sorted(pair))}
            rows.append(row | {"answer": winner(kind, *sorted(pair))})
    questions = pd.DataFrame(rows)
    return questions.assign(first_wins=questions["answer"] == questions["dataset_1"]), code


def by_code(kind, first, second):
    return first if kind == "wide" else second


def held_out(questions: pd.DataFrame) -> dq.Split:
    (split,) = dq.held_out_architectures(questions, np.random.default_rng(0), share=0.3)
    return split


def accuracy(baseline: str, split: dq.Split, code: dict[str, str]) -> float:
    probability = db.BASELINES[baseline](split.train, split.test, db.CodeFeatures(code), 0)
    correct = db.graded(probability, split.test)
    return 100 * correct.astype(float).mean()


@pytest.fixture(scope="module")
def informative():
    """Code decides; names say nothing, since half of the networks are of either kind."""
    return make(by_code, np.random.default_rng(0))


@pytest.fixture(scope="module")
def prior():
    """Names decide in nine questions of ten, by a fixed order of the data sets; code says nothing."""
    rng = np.random.default_rng(1)
    return make(lambda kind, a, b: a if rng.uniform() < 0.9 else b, rng)


@pytest.mark.parametrize("baseline", READ_CODE)
def test_who_reads_the_code_finds_what_it_says(informative, baseline):
    questions, code = informative
    assert accuracy(baseline, held_out(questions), code) > 90  # trees on singular vectors miss a few


@pytest.mark.parametrize("baseline", sorted(set(db.BASELINES) - set(READ_CODE)))
def test_who_does_not_read_the_code_cannot(informative, baseline):
    questions, code = informative
    assert accuracy(baseline, held_out(questions), code) < 62


@pytest.mark.parametrize("baseline", ["names", "frequent_winner", "family_and_names", "code_and_names"])
def test_the_prior_of_the_names_is_reached(prior, baseline):
    questions, code = prior
    assert accuracy(baseline, held_out(questions), code) == pytest.approx(90, abs=4)


def test_family_and_names_knows_families(informative):
    questions, code = informative
    of_kind = questions.assign(family=questions["kind"])
    assert accuracy("family_and_names", held_out(of_kind), code) == 100


def test_metadata_learns_a_rule_about_image_sides():
    questions, code = make(lambda kind, a, b: min(a, b, key=lambda d: db.DATASETS[d][1]), np.random.default_rng(2))
    assert accuracy("metadata", held_out(questions), code) > 80  # by image side; ties of 32 px are anyone's


def test_metadata_judges_a_data_set_it_never_saw():
    questions, code = make(lambda kind, a, b: min(a, b, key=lambda d: db.DATASETS[d][1]), np.random.default_rng(2))
    split = next(s for s in dq.held_out_dataset(questions, np.random.default_rng(0)) if s.part == "mnist")
    assert accuracy("metadata", split, code) > 60


def answers_of(questions, code, folder, seed=0) -> pd.DataFrame:
    return db.answer_all(questions, code, 1, seed, folder, rounds=8)


@pytest.fixture(scope="module")
def noise_answers(tmp_path_factory):
    """The prior of the names is strong, the code says nothing."""
    rng = np.random.default_rng(3)
    questions, code = make(lambda kind, a, b: a if rng.uniform() < 0.7 else b, rng, architectures=90)
    # One split of 90 networks is little: the intervals of all three readers of code hold 50 with 15 of 20 seeds, as 1
    return questions, code, answers_of(questions, code, tmp_path_factory.mktemp("kept"), seed=1)


@pytest.mark.parametrize("baseline", ["frequent_winner", "names", "metadata"])
def test_names_alone_give_exactly_half_on_the_balanced_set(noise_answers, baseline):
    """Whatever sees the names only is right as often as wrong, in every fold and not merely on average."""
    answers = noise_answers[2].query("question_set == 'balanced' and baseline == @baseline")
    assert (answers.groupby(["split", "part"])["correct"].mean() == 0.5).all()


@pytest.mark.parametrize("baseline", READ_CODE)
def test_code_that_says_nothing_gives_half_on_held_out_architectures(noise_answers, baseline):
    answers = noise_answers[2].query("split == 'architectures' and question_set == 'balanced'")
    table = db.summarise(answers, np.random.default_rng(0), 500).set_index("baseline")
    assert table.loc[baseline, "ci_low"] < 50 < table.loc[baseline, "ci_high"]


def test_the_published_split_rewards_memory(noise_answers):
    """Trained on the test questions, a reader of code that says nothing looks better than on held-out networks."""
    means = noise_answers[2].query("question_set == 'balanced'").groupby(["split", "baseline"])["correct"].mean()
    assert means["published", "code_and_names"] > means["architectures", "code_and_names"] + 0.05


def test_every_split_set_and_baseline_is_answered(noise_answers):
    questions, _, answers = noise_answers
    assert set(answers["split"]) == set(dq.SPLITS) and set(answers["baseline"]) == set(db.BASELINES)
    assert set(answers["correct"].astype(float)) <= {0.0, 0.5, 1.0}
    whole = answers.query("split == 'families' and question_set == 'all' and baseline == 'names'")
    assert sorted(whole["question"]) == sorted(questions.index)
    looked_up = questions.loc[answers["question"]]
    assert (answers["pair"].to_numpy() == looked_up["pair"].to_numpy()).all()
    assert (answers["group"].to_numpy() == looked_up["group"].to_numpy()).all()


@pytest.fixture
def few_folds(monkeypatch):
    """Nine instead of the usual folds, answered in this process."""
    monkeypatch.setattr(db, "SPLITS", {name: dq.SPLITS[name] for name in ("architectures", "families")})
    with parallel_config(backend="sequential"):
        yield 9


def test_same_seed_same_answers_and_another_seed_others(tmp_path, few_folds):
    questions, code = make(by_code, np.random.default_rng(0), architectures=30)
    answers = answers_of(questions, code, tmp_path / "first")
    pd.testing.assert_frame_equal(answers_of(questions, code, tmp_path / "second"), answers)
    other = answers_of(questions, code, tmp_path / "first", seed=1)
    held = "split == 'architectures' and question_set == 'all' and baseline == 'names'"
    assert set(other.query(held)["question"]) != set(answers.query(held)["question"])


def test_stopped_it_goes_on_where_it_was(tmp_path, monkeypatch, few_folds):
    questions, code = make(by_code, np.random.default_rng(0), architectures=30)
    begun, stops = [], [5]

    def names(train, test, code, seed):
        begun.append(len(test))
        if len(begun) in stops:
            stops.clear()
            raise OSError("the power went")
        return db.names(train, test, code, seed)

    monkeypatch.setattr(db, "BASELINES", {"names": names})
    with pytest.raises(OSError, match="the power"):
        answers_of(questions, code, tmp_path)
    resumed = answers_of(questions, code, tmp_path)
    pd.testing.assert_frame_equal(answers_of(questions, code, tmp_path), resumed)
    assert len(begun) == few_folds + 1  # the one that was stopped began twice
    pd.testing.assert_frame_equal(answers_of(questions, code, tmp_path / "never stopped"), resumed)
    fewer = questions[questions["architecture"] != "net-0"]
    renamed = {name: text.replace("word1", "word2") for name, text in code.items()}
    for asked in ((fewer, code, tmp_path), (questions, renamed, tmp_path), (questions, code, tmp_path, 1)):
        begun.clear()  # other questions, code or seed: nothing that is kept answers them
        answers_of(*asked)
        assert len(begun) == few_folds


def swapped(questions: pd.DataFrame, which: np.ndarray) -> pd.DataFrame:
    first, second = questions["dataset_1"], questions["dataset_2"]
    return questions.assign(
        dataset_1=np.where(which, second, first),
        dataset_2=np.where(which, first, second),
        first_wins=np.where(which, ~questions["first_wins"], questions["first_wins"]),
    )


@pytest.mark.parametrize("baseline", DETERMINISTIC)
@pytest.mark.parametrize("part", ["train", "test"])
def test_the_order_of_the_two_names_carries_nothing(prior, baseline, part):
    questions, code = prior
    split, features = held_out(questions), db.CodeFeatures(code)
    which = np.random.default_rng(4).uniform(size=len(getattr(split, part))) < 0.5
    other = dq.Split(**(vars(split) | {part: swapped(getattr(split, part), which)}))
    before, after = (db.BASELINES[baseline](s.train, s.test, features, 0) for s in (split, other))
    turned = np.where(which, 1 - after, after) if part == "test" else after
    assert turned == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize("baseline", db.BASELINES)
def test_test_labels_are_never_looked_at(prior, baseline):
    questions, code = prior
    split, features = held_out(questions), db.CodeFeatures(code)
    rng = np.random.default_rng(5)
    lies = split.test.assign(first_wins=rng.permutation(split.test["first_wins"]), answer="svhn", kind="none")
    before, after = (db.BASELINES[baseline](split.train, test, features, 0) for test in (split.test, lies))
    assert (before == after).all()


def test_features_come_from_the_training_part_only(prior):
    """A word that only test networks use has no column, and test networks do not move the weights of the others."""
    questions, code = prior
    split = held_out(questions)
    tested = set(split.test["architecture"])
    marked = {name: text + ("onlytest onlytest\n" * 5 if name in tested else "") for name, text in code.items()}
    before, after = (db.CodeFeatures(c).fit(split.train) for c in (code, marked))
    rows = db.CodeFeatures(code).rows_of(split.train)
    assert before.shape == after.shape and abs(before[rows] - after[rows]).max() == 0


def test_only_the_first_two_thousand_characters_are_read(prior):
    code = prior[1]
    long = {name: text.ljust(dq.CODE_CHARACTERS) for name, text in code.items()}
    longer = {name: text + f" tail{i % 2} tail{i % 2}" for i, (name, text) in enumerate(long.items())}
    assert abs(db.CodeFeatures(long).counts - db.CodeFeatures(longer).counts).max() == 0


def test_paired_difference(noise_answers):
    answers = noise_answers[2]
    held = answers.query("split == 'architectures' and question_set == 'all'")
    found = db.paired_difference(held, "names", "code_boosting", np.random.default_rng(0), 300)
    means = held.astype({"correct": float}).groupby("baseline")["correct"].mean()
    assert found.value == pytest.approx(100 * (means["names"] - means["code_boosting"]))
    shuffled = held.sample(frac=1, random_state=0)
    again = db.paired_difference(shuffled, "names", "code_boosting", np.random.default_rng(0), 300)
    assert (again.low, again.high, again.n) == pytest.approx((found.low, found.high, found.n))


def test_a_baseline_does_not_differ_from_itself(noise_answers):
    held = noise_answers[2].query("split == 'families' and question_set == 'all'")
    found = db.paired_difference(held, "names", "names", np.random.default_rng(0), 50)
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_summaries(noise_answers):
    questions, _, answers = noise_answers
    table = db.summarise(answers, np.random.default_rng(0), 50)
    key = table.set_index(["split", "part", "baseline", "question_set"])
    assert key.index.is_unique
    assert key.loc[("families", "all parts", "names", "all"), "n"] == len(questions)
    folds = table.query("split == 'families' and baseline == 'names' and question_set == 'all' and part != 'all parts'")
    pooled = (folds["accuracy"] * folds["n"]).sum() / folds["n"].sum()
    assert key.loc[("families", "all parts", "names", "all"), "accuracy"] == pytest.approx(pooled)
    per = db.by_dataset(answers.query("split == 'published' and question_set == 'all'"), np.random.default_rng(0), 20)
    counted = per[per["baseline"] == "names"].set_index("dataset")["n"]
    assert counted.to_dict() == {d: (3 * 90 if d in SOME else 0) for d in db.NAMES}


@pytest.mark.parametrize("told_apart", ["bases", "variants"])
def test_of_bases_never_seen_code_tells_what_it_says_and_no_more(told_apart):
    """Where a base is all of one kind its variants do not differ; where both kinds are in each base they do."""
    questions, code = make(by_code, np.random.default_rng(4), architectures=96)
    number = questions["architecture"].str.removeprefix("net-").astype(int)
    base = number % 12 if told_apart == "bases" else number // 8  # net-i is wide where i is even
    names = ("Net" + base.astype(str) + "-" + number.astype(str)).where(number < 72, "ga-" + number.astype(str))
    code = {new: code[old] for old, new in zip(questions["architecture"], names, strict=True)}
    families = pd.Series(np.where(number < 72, "hand-written", "ga"))
    found = db.unseen_bases(
        questions.assign(architecture=names, family=families), code, 0, np.random.default_rng(0), 50
    )
    found = found.set_index("balanced")
    assert found.loc["of all bases", "accuracy"] > 95
    assert found.loc["of all bases", "questions"] == 72 * 6
    within = found.loc["within a base"]
    if told_apart == "bases":
        assert within["questions"] == 0 and np.isnan(within["accuracy"])
    else:
        assert within["accuracy"] > 95 and within["questions"] == 72 * 6 and within["bases"] == 9


def test_balancing_weights_are_those_of_a_balanced_draw():
    answers = pd.DataFrame({"pair": ["a / b"] * 5 + ["a / c"] * 2, "answer": ["a", "a", "a", "a", "b", "a", "a"]})
    assert db.balancing_weights(answers, ["pair"]).tolist() == [0.25] * 4 + [1, 0, 0]
