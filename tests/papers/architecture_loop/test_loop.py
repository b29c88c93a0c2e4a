"""Paper B's loop: selection and admission as pure functions; the whole loop with the nano coder; killed and resumed."""

import contextlib
import dataclasses
import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from nngpt_lab.candidates import pool, proxy
from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.novelty import NoveltyIndex, NoveltySettings
from nngpt_lab.candidates.outcome import Kind
from nngpt_lab.candidates.pool import LocalPool, Pool
from nngpt_lab.candidates.screening import screen
from nngpt_lab.ground.errors import DataError, UsageError
from nngpt_lab.llm import lora
from nngpt_lab.llm.prompts import prompt
from nngpt_lab.papers.architecture_loop import lab as labs
from nngpt_lab.papers.architecture_loop import loop
from nngpt_lab.papers.architecture_loop.base_model import sample_base_model, thresholds
from nngpt_lab.papers.architecture_loop.design import ARMS, AUTHORS, DEMO, DESIGNS, PAPER, SMOKE
from nngpt_lab.papers.architecture_loop.lab import Lab, known_networks, open_lab
from nngpt_lab.papers.architecture_loop.pairs import Pair, messages, mix
from nngpt_lab.papers.architecture_loop.selection import admit, choose
from nngpt_lab.sandbox.parent import Sandbox
from nngpt_lab.study.design import get_arms
from nngpt_lab.study.run_state import RunState
from tests.helpers.killed import adapters, content, run_until, samples

SCORES = pd.DataFrame({"position": range(6), "score": [0.9, None, 0.5, 0.1, 0.7, None]})


def rng():
    return np.random.default_rng(0)


# ------------------------------------------------------------------------------------------------------------- choice


def test_good_is_what_reaches_the_threshold():
    assert choose(SCORES, "good", 0.5, rng()).tolist() == [True, False, True, False, True, False]
    assert not choose(SCORES, "good", 0.95, rng()).any()


def test_shuffled_keeps_the_number_and_only_trained_ones():
    found = [choose(SCORES, "shuffled", 0.5, np.random.default_rng(seed)) for seed in range(40)]
    assert all(one.sum() == 3 and not one[[1, 5]].any() for one in found)
    assert sum(one[3] for one in found) == pytest.approx(30, abs=9)  # the worst one passes in three of four


def test_random_takes_as_many_as_it_is_told():
    found = [choose(SCORES, "random", 0.5, np.random.default_rng(seed), quota=2) for seed in range(40)]
    assert all(one.sum() == 2 and not one[[1, 5]].any() for one in found)
    assert choose(SCORES, "random", 0.5, rng(), quota=9).sum() == 4


def test_fallback_fills_up_with_the_best():
    chosen = choose(SCORES, "good", 0.8, rng(), fallback=(2, 0.5))
    assert chosen.tolist() == [True, False, False, False, True, False]
    assert choose(SCORES, "good", 0.8, rng(), fallback=(4, 0.5)).sum() == 3  # no further than its own threshold
    assert choose(SCORES, "good", 0.5, rng(), fallback=(2, 0.1)).sum() == 3  # not needed


def network(width: int, extra: str = "") -> str:
    layers = "\n".join(f"        self.layer_{i} = nn.Conv2d({width + i}, {width}, {i})" for i in range(9))
    return f"class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n{layers}\n{extra}"


def test_only_new_ones_are_admitted_in_the_order_of_positions():
    codes = [network(8), network(9), network(8, "        self.pool = nn.MaxPool2d(2)\n" * 9), network(8)]
    known = NoveltyIndex()
    known.add_many(["known"], ["x = 1\n" * 50])
    screened = [screen(code, Kind.ARCHITECTURE) for code in codes]
    rows = pd.DataFrame({"position": range(4), "score": [0.9, 0.9, 0.9, 0.1], "passed": [True, True, True, False]})
    found = admit(known, NoveltyIndex(), rows, screened, only_novel=True)
    assert found["novel"].tolist()[:3] == [True, False, True]  # numbers do not count in paper B's form
    assert found["novel"].isna().tolist() == [False, False, False, True]
    assert found["accepted"].tolist() == [True, False, True, False]
    every = admit(known, NoveltyIndex(), rows, screened, only_novel=False)
    assert every["accepted"].tolist() == [True, True, True, False]


def test_a_copy_of_the_corpus_is_not_new():
    known = NoveltyIndex()
    known.add_many(["one"], [network(4)])
    rows = pd.DataFrame({"position": [0], "score": [0.9], "passed": [True]})
    found = admit(known, NoveltyIndex(), rows, [screen(network(8), Kind.ARCHITECTURE)], only_novel=True)
    assert (found["nearest"][0], found["jaccard"][0], bool(found["accepted"][0])) == ("one", 1.0, False)


def test_the_index_of_a_corpus_is_built_once_however_many_ask(tmp_path, monkeypatch):
    monkeypatch.setenv("NNGPT_LAB_CACHE", str(tmp_path))
    built, together, add_many = [], threading.Barrier(2), NoveltyIndex.add_many
    monkeypatch.setattr(NoveltyIndex, "add_many", lambda self, *sources: (built.append(1), add_many(self, *sources)))
    corpus = pd.DataFrame({"name": ["a", "b"], "code": [network(8), network(9)]})

    def ask(_):
        together.wait()
        return len(labs.known_index("two", corpus, PAPER.novelty))

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(ask, range(2))) == [2, 2]
    next(tmp_path.rglob("*.npz")).write_bytes(b"damaged")
    assert len(labs.known_index("two", corpus, PAPER.novelty)) == 2 and len(built) == 2


def test_mix_puts_new_pairs_first():
    new, old = [Pair((), "new")] * 2, [Pair((), f"old {i}") for i in range(9)]
    assert mix(new, old, None, rng())[2:] == old
    assert [pair.code for pair in mix(new, old, 4, rng())][:2] == ["new", "new"]
    assert len(mix(new, old, 4, rng())) == 4 and mix(new, old, 1, rng()) == new[:1]
    assert mix([], [], 4, rng()) == [] and len(mix([], old, 4, rng())) == 4


# ------------------------------------------------------------------------------------------------------------ designs


@pytest.mark.parametrize("design", DESIGNS.values(), ids=lambda design: design.name)
def test_every_design_can_ask(design):
    asked = messages(design, 0, 1, 0)
    assert "$" not in asked[-1]["content"] and asked == messages(design, 0, 1, 0)
    if design.pair_prompt:
        given = {*dict(design.fields), "accuracy_percent", *prompt(design.pair_prompt).choices}
        assert prompt(design.pair_prompt).fields <= given
    assert design.thresholds == tuple(sorted(design.thresholds, reverse=True))


def test_published_numbers():
    assert (PAPER.cycles, PAPER.samples, PAPER.corpus_pairs, PAPER.thresholds[0]) == (22, 208, 1698, 0.40)
    assert (PAPER.decoding.temperature, PAPER.decoding.top_k, PAPER.decoding.top_p) == (0.2, 50, 0.9)
    recipe = PAPER.recipe
    assert (recipe.rank, recipe.alpha, recipe.dropout, recipe.lr, recipe.epochs) == (32, 32, 0.05, 1e-5, 5)
    assert (PAPER.novelty.shingle, PAPER.novelty.permutations, PAPER.novelty.jaccard_threshold) == (10, 256, 0.90)
    assert (AUTHORS.decoding.temperature, AUTHORS.samples, AUTHORS.fallback) == (0.7, 150, (15, 0.35))


def test_the_hash_covers_what_changes_a_run_and_no_more():
    assert dataclasses.replace(DEMO, cycles=3, name="other").hash() == DEMO.hash()
    assert dataclasses.replace(DEMO, samples=17).hash() != DEMO.hash()
    assert dataclasses.replace(DEMO, recipe=dataclasses.replace(DEMO.recipe, lr=0.1)).hash() != DEMO.hash()
    assert len({design.hash() for design in DESIGNS.values()}) == len(DESIGNS)


def test_arms_are_read_from_text():
    assert [arm.name for arm in get_arms("no tuning, loop", ARMS)] == ["loop", "no tuning"]
    assert get_arms("all", ARMS) == list(ARMS.values())
    for wrong in ("lop", "", "random pairs"):
        with pytest.raises(UsageError):
            get_arms(wrong, ARMS)
    with pytest.raises(UsageError, match="did you mean 'nano'"):
        DESIGNS["nanno"]


def test_near_copies_are_written_again_and_hotter_each_time(monkeypatch):
    settings = NoveltySettings("raw_tokens", 2, 64, 0.8, 0.8)
    known = NoveltyIndex(settings)
    known.check_and_add("known", "a b c d e f g h")
    design = replace(SMOKE, tries=3, retry_novelty=settings)
    lab = SimpleNamespace(design=design, retry_known=known)
    texts = ["a b c d e f g h", "i j k l m n o p", "i j k l m n o p"]
    answers = iter([["a b c d e f g h", "q r s t u v w x"], ["1 2 3 4 5 6 7 8"]])
    heats = []

    def write(lab, run, asked, seeds, coder, heat):
        heats.append((run, asked, heat))
        return enumerate(text_of(text) for text in next(answers))

    def text_of(text):
        return SimpleNamespace(candidate=SimpleNamespace(text=text))

    monkeypatch.setattr(loop, "write", write)
    written = {place: text_of(text) for place, text in enumerate(texts)}
    found = loop.write_again(lab, "run", ["p", "q", "r"], [1, 2, 3], written, None)
    assert [one.candidate.text for one in found] == ["1 2 3 4 5 6 7 8", texts[1], "q r s t u v w x"]
    assert heats == [("run try 2", ["p", "r"], 0.1), ("run try 3", ["p"], 0.2)]


# ------------------------------------------------------------------------------------------------------- the whole loop

EVERYTHING_IS_NEW = dataclasses.replace(PAPER.novelty, form="raw_tokens", jaccard_threshold=1.0)
TINY = dataclasses.replace(
    SMOKE,
    samples=4,
    base_samples=8,
    thresholds=(0.0, 0.0, 0.0),  # what is no worse than the base model's worst is tuned on
    novelty=EVERYTHING_IS_NEW,
    decoding=dataclasses.replace(SMOKE.decoding, temperature=0.7, max_new_tokens=192),  # most are sound
    batch=4,  # the base model's samples take two
)
COLUMNS = ["position", "code_hash", "tokens", "status", "score", "parameters", "nearest", "passed", "novel", "accepted"]


@contextlib.contextmanager
def opened(folder: Path):
    """A lab that knows the first networks of the corpus alone: to index all of them takes twenty seconds."""
    with (
        mock.patch.object(labs, "known_networks", lambda name: known_networks(name).head(200)),
        Ledger(folder / "ledger.sqlite") as ledger,
        open_lab(TINY, ledger, folder, workers=1, progress=False) as lab,
    ):
        yield lab


def run_all(folder: Path, design=TINY, shared: Lab | None = None, evaluators: Pool | None = None) -> pd.DataFrame:
    """Two arms in a folder of their own, with the model and the evaluators of a ``shared`` lab, or of a new one."""
    with (
        Ledger(folder / "ledger.sqlite") as ledger,
        contextlib.nullcontext(shared) if shared else opened(folder) as lab,
    ):
        lab = replace(lab, design=design, ledger=ledger, folder=folder, pool=evaluators or lab.pool)
        limits = thresholds(design, sample_base_model(lab))
        first = loop.run(lab, ARMS["loop"], 0, limits[0])
        quotas = first.groupby("cycle")["passed"].sum().tolist()
        return pd.concat([first, loop.run(lab, ARMS["random pairs"], 0, limits[0], quotas)], ignore_index=True)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with opened(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, shared):
    folder = tmp_path_factory.mktemp("loop")
    return folder, run_all(folder, shared=shared)


def test_the_loop_runs_and_everything_is_in_the_ledger(undisturbed):
    folder, table = undisturbed
    assert len(table) == 2 * 2 * 4 and set(table["arm"]) == {"loop", "random pairs"}
    first = table[table["cycle"] == 1].set_index(["arm", "position"])["code_hash"]
    assert first["loop"].equals(first["random pairs"])  # same seeds, same model
    assert (table["accepted"] <= table["passed"]).all()
    assert len(content(folder)["samples"]) == TINY.base_samples + 16 and adapters(folder)
    assert table[["sampling", "evaluation", "selection", "tuning"]].notna().all(axis=None)


def test_repeating_it_changes_nothing_and_does_nothing(undisturbed, shared):
    folder, table = undisturbed
    before, weights = content(folder), adapters(folder)
    again = run_all(folder, shared=shared)
    pd.testing.assert_frame_equal(again, table)  # the seconds too: they are those of the first time
    assert content(folder) == before and adapters(folder) == weights


@pytest.mark.slow
def test_with_jobs_and_children_ahead_as_on_a_gpu_it_ends_in_the_same_ledger(undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "LocalPool", lambda proxy, workers, _: LocalPool(proxy, 3, pool.JOBS_AHEAD))
    warm = {"warm": ("get_ready", {"device": "cpu"})}
    monkeypatch.setattr(proxy, "Sandbox", lambda *limits, **options: Sandbox(*limits, **options | warm))
    table = run_all(tmp_path)
    pd.testing.assert_frame_equal(table[COLUMNS], undisturbed[1][COLUMNS])
    assert content(tmp_path) == content(undisturbed[0])
    assert adapters(tmp_path) == adapters(undisturbed[0])


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is POSIX")
def test_killed_it_resumes_and_with_more_cycles_goes_on_to_the_same_ledger_and_adapters(undisturbed, shared, tmp_path):
    # In the first cycle, while the rest of its samples are written and evaluated
    run_until(lambda: samples(tmp_path) > TINY.base_samples + 1, __name__, tmp_path)
    run_all(tmp_path, replace(TINY, cycles=1), shared)
    table = run_all(tmp_path, shared=shared)
    pd.testing.assert_frame_equal(table[COLUMNS], undisturbed[1][COLUMNS])
    assert content(tmp_path) == content(undisturbed[0])
    assert adapters(tmp_path) == adapters(undisturbed[0])


@pytest.mark.parametrize(
    "where",
    [
        (Ledger, "add_outcome"),  # while others are written and evaluated
        pytest.param((Ledger, "add_sample"), marks=pytest.mark.slow),  # a whole loop each, eight seconds of a core
        pytest.param((lora, "descend"), marks=pytest.mark.slow),
    ],
)
def test_stopped_as_by_jupyters_button_the_same_cell_goes_on_in_the_same_kernel(
    undisturbed, shared, tmp_path, monkeypatch, where
):
    """A kernel that is interrupted gets SIGINT, keeps all its objects, and is given the same cell again."""
    (owner, name), calls, real = where, [0], getattr(where[0], where[1])

    def interrupted(*args, **kwargs):
        calls[0] += 1
        if calls[0] == 3:
            signal.raise_signal(signal.SIGINT)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_all(tmp_path, shared=shared)
    kept = samples(tmp_path)
    table = run_all(tmp_path, shared=shared)
    assert kept and calls[0] > 3
    pd.testing.assert_frame_equal(table[COLUMNS], undisturbed[1][COLUMNS])
    assert content(tmp_path) == content(undisturbed[0]) and adapters(tmp_path) == adapters(undisturbed[0])


@pytest.mark.slow  # opens the lab eleven times, half a minute; a single stop is tested above
def test_stopped_at_ten_random_points_and_moved_it_ends_as_if_it_had_not_been(
    undisturbed, shared, tmp_path, monkeypatch
):
    """What slices of time do (``--minutes``): an interrupt anywhere, the folder copied, the same call again."""
    done, stop = [0], [0]

    def interrupted(owner: object, name: str) -> None:
        real = getattr(owner, name)

        def counted(*args, **kwargs):
            done[0] += 1
            if done[0] == stop[0]:
                raise KeyboardInterrupt
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    for owner, name in ((Ledger, "add_sample"), (Ledger, "add_outcome"), (lora, "descend")):
        interrupted(owner, name)
    folder, rng, stops = tmp_path / "0", np.random.default_rng(0), 0
    folder.mkdir()
    while stops < 10:
        # What is in the ledger is filed again, and counts, before anything new is written
        done[0], stop[0] = 0, samples(folder) + int(rng.integers(1, 10))
        with contextlib.suppress(KeyboardInterrupt):
            table = run_all(folder, evaluators=shared.pool)  # which import torch for as long as a stop takes
            break
        stops += 1
        folder = folder.rename(tmp_path / str(stops))
    else:
        assert samples(folder) > TINY.base_samples + TINY.samples  # stops beyond the first cycle
        stop[0] = 0
        table = run_all(folder, evaluators=shared.pool)
    assert stops == 10, "it ended before it had been stopped ten times: stop earlier"
    pd.testing.assert_frame_equal(table[COLUMNS], undisturbed[1][COLUMNS])
    assert content(folder) == content(undisturbed[0]) and adapters(folder) == adapters(undisturbed[0])


def test_the_time_of_a_stage_within_a_stage_counts_once(tmp_path, monkeypatch):
    clock = iter([0, 1, 3, 10, 14, 20, 21, 30])  # the outer begins and ends with 0 and 30; steps take 2, 4, 1
    monkeypatch.setattr("nngpt_lab.study.run_state.time.monotonic", lambda: next(clock))
    state = RunState(None, None, tmp_path, 0)
    with state.timed("evaluation"):
        assert list(state.timed_steps("sampling", (step for step in "ab"))) == ["a", "b"]
    assert state.end_cycle(1) == {"sampling": 7, "evaluation": 23, "selection": 0, "tuning": 0}


@pytest.mark.parametrize("left", ["", "{", "[]", '{"cycle"'])
def test_what_a_full_disk_left_of_a_record_counts_as_none(tmp_path, left, caplog):
    for name in ("state.json", "cycle-01.json"):
        (tmp_path / name).write_text(left)
    state = RunState(None, None, tmp_path, 0)
    assert (state.cycle, state.adapter) == (-1, None) and "state.json" in caplog.text
    assert state.end_cycle(1) == RunState(None, None, tmp_path, 0).end_cycle(1)  # written anew
    assert json.loads((tmp_path / "cycle-01.json").read_text())["tuning"] == 0


def test_adapters_without_their_ledger_are_refused(undisturbed, shared, tmp_path):
    folder, _ = undisturbed
    for name in [path.name for path in folder.iterdir() if path.is_dir()]:
        (tmp_path / name).symlink_to(folder / name)
    with Ledger(tmp_path / "ledger.sqlite") as ledger, pytest.raises(DataError, match="samples of cycle"):
        loop.run(replace(shared, ledger=ledger, folder=tmp_path), ARMS["loop"], 0, 0.1)
