"""The pool with evaluators that do as their code says: order, resuming, interrupts, errors, and what is left behind."""

from __future__ import annotations

import gc
import io
import os
import re
import signal
import sys
import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.outcome import Candidate, Kind, Outcome
from nngpt_lab.candidates.pool import LocalPool, evaluate, open_pool
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.sandbox.parcels import open_parcel
from nngpt_lab.sandbox.parent import SandboxError
from nngpt_lab.sandbox.status import Status
from tests.helpers.waiting import LIMIT, wait_for, when


def candidate(code: str) -> Candidate:
    return Candidate(code, code, Kind.ARCHITECTURE)


@dataclass
class Events:
    """What happened, in order; shared by a recipe and its evaluators."""

    opened: list = field(default_factory=list)
    begun: list = field(default_factory=list)
    ended: list = field(default_factory=list)  # (code, seed, whether it was stopped)
    closed: list = field(default_factory=list)
    arrays: int = 0
    go: threading.Event = field(default_factory=threading.Event)  # what a ``gate`` waits for
    meeting: threading.Barrier = field(default_factory=lambda: threading.Barrier(4))


class Obedient:
    """Does as told: ``score 0.5``, ``wait 0.1``, ``gate 0.1``, ``meet 0.1``, ``hang``, ``raise``, ``crash``."""

    protocol_hash = "obedient"

    def __init__(self, events: Events, data: np.ndarray):
        self.events, self.data, self.stopped = events, data, threading.Event()
        self.running = threading.Lock()

    def evaluate(self, candidate: Candidate, seed: int) -> Outcome:
        assert self.running.acquire(blocking=False), "two threads in one evaluator"
        try:
            self.events.begun.append((candidate.code, seed))
            verb, _, number = candidate.code.partition(" ")
            stopped = verb in ("hang", "wait") and self.stopped.wait(LIMIT if verb == "hang" else float(number))
            if verb == "gate":
                assert self.events.go.wait(LIMIT)
            if verb == "meet":
                self.events.meeting.wait(LIMIT)
            if verb == "raise":
                raise SandboxError("the lab failed", "mend it")
            status = Status.CRASH if verb in ("hang", "crash") else Status.OK
            score = float(number or 0.5) * float(self.data[seed]) if status == Status.OK else None
            self.events.ended.append((candidate.code, seed, stopped))
            return Outcome(status, score, seed, self.protocol_hash)
        finally:
            self.running.release()

    def stop(self) -> None:
        self.stopped.set()

    def close(self) -> None:
        assert not self.running.locked(), "closed while it ran"
        self.events.closed.append(self)


class Recipe:
    protocol_hash, record, device, gpu = "obedient", {"name": "obedient"}, "cpu", False

    def __init__(self):
        self.events = Events()

    def arrays(self) -> dict[str, np.ndarray]:
        self.events.arrays += 1
        return {"data": np.linspace(1.0, 0.5, 3)}

    def open(self, shared: int) -> Obedient:
        _, arrays = open_parcel(os.dup(shared))
        evaluator = Obedient(self.events, arrays["data"])
        self.events.opened.append(evaluator)
        return evaluator


@pytest.fixture(autouse=True)
def interrupts():
    """Python's own handler, which a job in the background does not have."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.fixture
def recipe():
    """A recipe, after whose use nothing runs, nothing is open and no thread or descriptor is left."""
    gc.collect()  # what other tests have left to be collected
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    recipe = Recipe()
    yield recipe
    assert sorted(map(id, recipe.events.opened)) == sorted(map(id, recipe.events.closed))
    assert all(stopped for code, _, stopped in recipe.events.ended if code.startswith("hang"))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("evaluator")]
    recipe.events = None  # and with it the evaluators' mappings of the parcel
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= descriptors  # noqa: PTH208  joblib's workers leave when they like


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


def scores(outcomes):
    return [outcome.score for outcome in outcomes]


def interrupt_when(condition) -> threading.Thread:
    return when(condition, lambda: os.kill(os.getpid(), signal.SIGINT))


# --- results ------------------------------------------------------------------------------------------------------


def test_outcomes_come_in_the_order_of_candidates_and_seeds(recipe, ledger):
    codes = ["wait 0.2", "score 0.6", "crash", "score 0.8"]  # the first is the last to end
    outcomes = evaluate(map(candidate, codes), recipe, ledger, seeds=(0, 2), workers=3)
    assert scores(outcomes) == [0.2, 0.1, 0.6, 0.3, None, None, 0.8, 0.4]
    assert [outcome.seed for outcome in outcomes] == [0, 2] * 4
    assert ledger.known("obedient") == {(candidate(code).code_hash, seed) for code in codes for seed in (0, 2)}
    assert ledger.table("protocols")["record"].tolist() == ['{"name": "obedient"}']


def test_equal_codes_are_evaluated_once(recipe, ledger):
    outcomes = evaluate([candidate("wait 0.1")] * 5, recipe, ledger, workers=3)
    assert scores(outcomes) == [0.1] * 5
    assert len(recipe.events.begun) == 1


def test_what_the_ledger_knows_is_not_evaluated_again(recipe, ledger):
    evaluate([candidate("score 0.1"), candidate("crash")], recipe, ledger)
    begun = list(recipe.events.begun)
    again = evaluate([candidate("crash"), candidate("score 0.1"), candidate("score 0.2")], recipe, ledger)
    assert scores(again) == [None, 0.1, 0.2]
    assert recipe.events.begun == [*begun, ("score 0.2", 0)]
    evaluate([candidate("crash")], recipe, ledger)
    assert recipe.events.arrays == 2  # with nothing to do no pool is opened


def test_what_another_driver_did_meanwhile_is_taken_over(recipe, ledger, tmp_path):
    codes = ["gate 0.3", "score 0.7"]

    def other_driver():
        with Ledger(tmp_path / "ledger.sqlite") as other:
            other.add_outcome(candidate("score 0.7"), Outcome(Status.OK, 0.25, 0, "obedient"))
            other.add_outcome(candidate("gate 0.3"), Outcome(Status.OK, 0.125, 0, "obedient"))
        recipe.events.go.set()

    other = when(lambda: recipe.events.begun, other_driver)
    outcomes = evaluate(map(candidate, codes), recipe, ledger, workers=1)
    other.join()
    assert scores(outcomes) == [0.125, 0.25]  # the first to be written wins, also over our own
    assert recipe.events.begun == [("gate 0.3", 0)]


def test_workers_work_at_the_same_time_on_one_copy_of_the_data(recipe):
    with LocalPool(recipe, workers=4) as pool:
        results = list(pool.map((candidate(f"meet 0.4{i}"), 0) for i in range(8)))  # each waits for three others
    assert len(results) == 8 and recipe.events.arrays == 1
    assert len(recipe.events.opened) == 4


def test_jobs_are_read_when_there_is_room(recipe):
    read = []

    def jobs():
        for i in range(20):
            read.append(i)
            yield candidate(f"score 0.{i}"), 0

    with LocalPool(recipe, workers=2) as pool:
        for done, _ in enumerate(pool.map(jobs()), start=1):
            assert len(read) <= done + 2 + 2  # what is done and may not have been yielded yet, and two at work


def test_candidates_are_made_while_others_are_evaluated(recipe, ledger):
    begun_before = []

    def made():
        for i in range(8):
            begun_before.append(len(recipe.events.begun))
            yield candidate(f"wait 0.{i + 1}")

    outcomes = evaluate(made(), recipe, ledger, workers=2)
    assert scores(outcomes) == [(i + 1) / 10 for i in range(8)]
    assert all(begun >= i - 1 for i, begun in enumerate(begun_before))


def test_jobs_that_wait_keep_workers_busy_while_the_next_is_made(recipe):
    """All six that may be read are, while none has finished; and a worker goes on while nobody reads."""
    read = []

    def jobs():
        for i in range(12):
            if i == 6:  # in this thread, which therefore gives out nothing
                recipe.events.go.set()
                wait_for(lambda: len(recipe.events.ended) == 6)
            read.append(i)
            yield candidate(f"gate 0.{i}"), 0

    with LocalPool(recipe, workers=2, ahead=5) as pool:
        results = {int(job[0].code[7:]) for job, _ in pool.map(jobs())}
    assert results == set(range(12)) and len(recipe.events.opened) <= 2


def test_who_makes_jobs_is_not_stopped_until_the_queue_is_full_and_results_do_not_wait(recipe):
    read, ahead = [], 5

    def jobs():
        for i in range(30):
            read.append(i)
            if len(read) == 2 + ahead:
                recipe.events.go.set()
            yield candidate(f"gate 0.{i}"), 0  # which would wait for ever if fewer were read

    with LocalPool(recipe, workers=2, ahead=ahead) as pool:
        for done, _ in enumerate(pool.map(jobs()), start=1):
            assert len(read) <= done + 2 * (2 + ahead)
    assert len(read) == 30


@pytest.mark.parametrize("ahead", [0, 3, 50])
def test_the_ledger_holds_the_same_however_many_wait(recipe, ledger, ahead):
    codes = ["wait 0.02", "score 0.6", "crash", "score 0.8", "score 0.6", "wait 0.01"] * 3
    with LocalPool(recipe, workers=3, ahead=ahead) as pool:
        outcomes = evaluate(map(candidate, codes), recipe, ledger, seeds=(0, 2), pool=pool)
    assert scores(outcomes) == [0.02, 0.01, 0.6, 0.3, None, None, 0.8, 0.4, 0.6, 0.3, 0.01, 0.005] * 3
    assert len(ledger.table("evaluations")) == len(recipe.events.begun) == 10


def test_an_interrupt_drops_what_waits(recipe, ledger):
    codes = ["score 0.1", "crash", "hang", "hang 50", *(f"score 0.{i}" for i in range(2, 9))]
    interrupt = interrupt_when(lambda: len(recipe.events.begun) == 4)
    with LocalPool(recipe, workers=2, ahead=50) as pool:
        with pytest.raises(KeyboardInterrupt):
            evaluate(map(candidate, codes), recipe, ledger, pool=pool)
        interrupt.join()
        assert ledger.known("obedient") == {(candidate(code).code_hash, 0) for code in codes[:2]}
        assert len(recipe.events.begun) == 4
        recipe.events.begun.clear()
        again = evaluate(map(candidate, ["crash", *codes[4:]]), recipe, ledger, pool=pool)
    assert scores(again) == [None, *(i / 10 for i in range(2, 9))]
    assert sorted(code for code, _ in recipe.events.begun) == codes[4:]  # of two workers either may begin first


def test_no_job_is_read_any_more_once_there_was_an_interrupt(recipe):
    read = []
    with LocalPool(recipe, workers=1, ahead=50) as pool:

        def jobs():
            for number in range(40):
                read.append(number)
                if number == 3:
                    pool.interrupt()
                yield candidate("hang" if number == 0 else f"score 0.{number}"), 0

        with pytest.raises(KeyboardInterrupt):
            list(pool.map(jobs()))
    assert read == [0, 1, 2, 3]


def test_a_warm_pool_keeps_its_evaluators(recipe, ledger):
    with LocalPool(recipe, workers=1) as pool:
        evaluate([candidate("score 0.1")], recipe, ledger, pool=pool)
        evaluate([candidate("score 0.2")], recipe, ledger, pool=pool)
        assert len(recipe.events.opened) == 1 and not recipe.events.closed


def test_a_code_that_cannot_be_encoded_has_a_place_as_well(recipe, ledger):
    outcomes = evaluate([candidate("crash \ud800")], recipe, ledger)
    assert [outcome.status for outcome in outcomes] == [Status.CRASH]


@pytest.mark.parametrize("options", [{"engine": "slurm"}, {"workers": 0}])
def test_bad_options_are_refused(recipe, options):
    with pytest.raises(UsageError):
        open_pool(recipe, **options)


def test_progress_is_shown_on_a_terminal(recipe, ledger, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    evaluate([candidate("wait 0.2"), candidate("crash"), candidate("wait 0.3")], recipe, ledger, workers=1)
    text = terminal.getvalue()
    assert "candidates/s" in text and "/3 [" in text
    assert re.search(r"2/3 .*valid=(50|100)%", text) or re.search(r"3/3 .*valid=67%", text)
    terminal.truncate(0)
    evaluate([candidate("score 0.3")], recipe, ledger, progress=False)
    assert not terminal.getvalue().strip("\0")


# --- ending early -------------------------------------------------------------------------------------------------


def test_an_interrupt_keeps_what_is_finished_and_drops_what_is_not(recipe, ledger):
    candidates = [candidate(code) for code in ("score 0.1", "crash", "hang", "hang 50", "score 0.2")]
    interrupt = interrupt_when(lambda: len(recipe.events.begun) == 4)
    with pytest.raises(KeyboardInterrupt):
        evaluate(candidates, recipe, ledger, workers=2)
    interrupt.join()
    assert ledger.known("obedient") == {(c.code_hash, 0) for c in candidates[:2]}
    assert {code for code, *_ in recipe.events.ended} >= {"hang", "hang 50"}  # they did answer, and were not believed
    recipe.events.begun.clear()
    evaluate([candidates[i] for i in (0, 1, 4)], recipe, ledger)
    assert recipe.events.begun == [("score 0.2", 0)]  # and the run continues where it was


def test_an_interrupt_at_any_moment_loses_nothing_that_was_done(recipe, tmp_path):
    rng = np.random.default_rng(0)
    for round_ in range(8):
        recipe.events.begun.clear(), recipe.events.ended.clear()
        with Ledger(tmp_path / f"{round_}.sqlite") as ledger:
            jobs = [candidate(f"wait 0.00{i}") for i in range(1000)]
            moment = rng.integers(1, 60)
            interrupt = interrupt_when(lambda: len(recipe.events.begun) >= moment)  # noqa: B023  joined in this round
            with pytest.raises(KeyboardInterrupt):
                evaluate(jobs, recipe, ledger, workers=3)
            interrupt.join()
            known = {code_hash for code_hash, _ in ledger.known("obedient")}
        ended = [candidate(code).code_hash for code, *_ in recipe.events.ended]
        assert known <= set(ended)
        assert len(set(ended) - known) <= 3  # one per worker may have ended after the stop
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_in_the_last_moment_is_not_forgotten(recipe, ledger, monkeypatch):
    add_outcome = ledger.add_outcome
    monkeypatch.setattr(ledger, "add_outcome", lambda *_: [os.kill(os.getpid(), signal.SIGINT), add_outcome(*_)])
    with pytest.raises(KeyboardInterrupt):
        evaluate([candidate("score 0.1")], recipe, ledger)
    assert len(ledger.known("obedient")) == 1


def test_a_second_interrupt_is_pythons_own(recipe, ledger, monkeypatch):
    handlers = []
    stop = Obedient.stop
    monkeypatch.setattr(Obedient, "stop", lambda self: [handlers.append(signal.getsignal(signal.SIGINT)), stop(self)])
    interrupt = interrupt_when(lambda: recipe.events.begun)
    with pytest.raises(KeyboardInterrupt):
        evaluate([candidate("hang")], recipe, ledger)
    interrupt.join()
    assert set(handlers) == {signal.default_int_handler}


def test_a_pool_can_be_used_after_an_interrupt(recipe, ledger):
    with LocalPool(recipe, workers=2) as pool:
        interrupt = interrupt_when(lambda: recipe.events.begun)
        with pytest.raises(KeyboardInterrupt):
            evaluate([candidate("hang"), candidate("hang 50")], recipe, ledger, pool=pool)
        interrupt.join()
        stopped = list(recipe.events.opened)
        assert scores(evaluate([candidate("wait 0.1")], recipe, ledger, pool=pool)) == [0.1]
        assert set(map(id, recipe.events.closed)) == set(map(id, stopped))  # a stop may have struck between two jobs
        assert len(recipe.events.opened) == len(stopped) + 1


def test_interrupts_of_others_are_left_alone(recipe, ledger):
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interrupt = interrupt_when(lambda: recipe.events.begun)
        assert scores(evaluate([candidate("wait 0.4")], recipe, ledger)) == [0.4]
        interrupt.join()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


def test_an_error_of_the_labs_own_ends_the_run_after_what_is_finished(recipe, ledger):
    codes = ["score 0.1", "score 0.2", "hang", "raise", "score 0.3"]
    with pytest.raises(SandboxError, match="the lab failed"):
        evaluate(map(candidate, codes), recipe, ledger, workers=2)
    known = {code_hash for code_hash, _ in ledger.known("obedient")}
    assert {candidate(code).code_hash for code in codes[:2]} <= known
    assert not {candidate(code).code_hash for code in ("hang", "raise")} & known


def test_an_evaluator_that_cannot_be_made_ends_the_run(recipe, ledger, monkeypatch):
    def broken(shared):
        raise SandboxError("no sandbox here", "see doctor")

    monkeypatch.setattr(recipe, "open", broken)
    with pytest.raises(SandboxError, match="no sandbox here"):
        evaluate([candidate("score 0.1")], recipe, ledger)
    assert not ledger.known("obedient")


def test_an_error_while_reading_jobs_comes_after_what_is_finished(recipe):
    def jobs():
        yield candidate("score 0.1"), 0
        yield candidate("hang"), 0
        wait_for(lambda: any(future.done() for future in pool._running))
        raise RuntimeError("no more")

    results = []
    with LocalPool(recipe, workers=3) as pool, pytest.raises(RuntimeError, match="no more"):
        results.extend(outcome.score for _, outcome in pool.map(jobs()))
    assert results == [0.1]


def test_who_loses_interest_leaves_nothing_running(recipe):
    with LocalPool(recipe, workers=2) as pool:
        for _, outcome in pool.map([(candidate("score 0.1"), 0), (candidate("hang"), 0)]):
            assert outcome.score == 0.1
            break
        assert [outcome.score for _, outcome in pool.map([(candidate("score 0.2"), 0)])] == [0.2]


def test_a_pool_does_one_thing_at_a_time_and_ends_it_when_it_is_closed(recipe):
    with LocalPool(recipe, workers=1) as pool:
        first = pool.map([(candidate("score 0.1"), 0), (candidate("hang"), 0)])
        next(first)
        wait_for(lambda: len(recipe.events.begun) == 2)
        with pytest.raises(UsageError, match="at work already"):
            next(pool.map([(candidate("score 0.2"), 0)]))


def test_an_error_of_the_ledgers_ends_the_run(recipe, ledger, monkeypatch):
    def full(*_):
        raise SandboxError("disk full", "free some space")

    monkeypatch.setattr(ledger, "add_outcome", full)
    with pytest.raises(SandboxError, match="disk full"):
        evaluate([candidate("score 0.1"), candidate("hang")], recipe, ledger)


def test_an_answer_for_another_seed_is_not_filed(recipe, ledger, monkeypatch):
    monkeypatch.setattr(
        Obedient, "evaluate", lambda self, candidate, seed: Outcome(Status.OK, 0.5, seed + 1, "obedient")
    )
    with pytest.raises(ValueError, match="seed 1 instead of 0"):
        evaluate([candidate("score 0.1")], recipe, ledger)
    assert not ledger.known("obedient")
