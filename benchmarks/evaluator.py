"""The same LEMUR networks, images and epoch through the authors' evaluator and through ours, on the whole machine.

The authors' side is the real `ab.nn.api.check_nn` of nn-dataset 2.1.2, in an environment of its own. To make one:

    nngpt-lab fetch                                    # the wheel, by hash, into the lab's cache: artifacts/
    python -m venv authors
    authors/bin/python -m pip install <cache>/artifacts/nn_dataset-2.1.2-py3-none-any.whl
    python benchmarks/evaluator.py --authors-python authors/bin/python

Install the lab's version of torch there first, or the comparison is one of torch versions (the result names both). The
first start builds the authors' data base from their files, about four minutes, in the lab's cache.

The two sides run in turn, never at the same time. Theirs takes one candidate after the other in one process, with
torch's default number of threads and its DataLoader; ours runs as many candidates at a time as there are cores, each on
one thread, in its sandbox. Both are warm before the clock starts.
"""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import psutil
from common import timed, write_result

from nngpt_lab.candidates import training
from nngpt_lab.candidates.driver import Pool
from nngpt_lab.candidates.outcome import Candidate, Kind, Outcome
from nngpt_lab.candidates.pool import open_pool
from nngpt_lab.candidates.protocols import Protocol, get_protocol
from nngpt_lab.candidates.proxy import Proxy, prepare
from nngpt_lab.corpora import architectures
from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import DataError, UsageError
from nngpt_lab.sandbox.status import Status

log = logging.getLogger("evaluator")
VERSION = "2.1.2"
LIMIT = 500_000  # parameters, paper B
SMALL, LARGE = "(a) within 500 K parameters", "(b) LEMUR's large ones"
NAMED = ("ResNet", "VGG")  # of the large ones; the others are drawn
HOLDOUT = 500  # images
CHECKS = ("pylint", "trial run at 224 px")  # what the authors' evaluator does and ours does not
STAGES = (*CHECKS, "data loader", "build", "train", "predict", "other")
BLOCK = 6  # networks: as the sides take turns, what else the machine does hits both


@dataclass(frozen=True)
class Network:
    """A candidate of the benchmark, with the hyperparameters that both sides give it."""

    name: str
    family: str
    code: str
    declared: tuple[str, ...]
    parameters: int = 0

    @property
    def candidate(self) -> Candidate:
        """As our evaluator takes it."""
        return Candidate(self.code, self.code, Kind.ARCHITECTURE)


# --- which networks ---------------------------------------------------------------------------------------------------


def drawn(seed: int) -> Iterator[Network]:
    """LEMUR's networks in a random order in which families take turns."""
    table = architectures.load().architectures.sort_values("name")
    rng = np.random.default_rng(seed)
    for _, rows in table.groupby("family").groups.items():
        table.loc[rows, "turn"] = rng.permutation(len(rows))
    for row in table.sort_values(["turn", "family"]).itertuples():
        if (names := declared(row.code)) is not None:
            yield Network(row.name, row.family, row.code, names)


def declared(code: str) -> tuple[str, ...] | None:
    """What a network's ``supported_hyperparameters`` returns, if it can be read without running it."""
    try:
        functions = [node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]
        function = next(node for node in functions if node.name == "supported_hyperparameters")
        return tuple(sorted(ast.literal_eval(function.body[-1].value)))
    except (SyntaxError, StopIteration, ValueError, AttributeError, TypeError):
        return None


def choose(networks: Iterator[Network], protocol: Protocol, count: int, least: int) -> list[Network]:
    """The first ``count`` that our evaluator accepts on one batch, with at least so many parameters.

    No more than a third are of one family, and no two of a family are of one size: LEMUR holds many near-duplicates.
    """
    few = replace(protocol, train_limit=protocol.batch, holdout_fraction=0.0002, wall_seconds=60.0)
    chosen: list[Network] = []
    with prepare(few).evaluator() as evaluator:
        for network in networks:
            if len(chosen) == count:
                break
            like = [other.parameters for other in chosen if other.family == network.family]
            if len(like) >= max(2, count // 3):
                continue
            outcome = evaluator.evaluate(network.candidate, seed=0)
            if outcome.status == Status.OK and outcome.parameters >= least and outcome.parameters not in like:
                chosen.append(replace(network, parameters=outcome.parameters))
    if len(chosen) < count:
        raise DataError(f"only {len(chosen)} of LEMUR's networks fit", "ask for fewer")
    return chosen


# --- the two sides ----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def authors(python: Path, home: Path, proxy: Proxy) -> Iterator[tuple[dict[str, Any], Callable]]:
    """``check_nn`` in a process of its own environment: what it says of itself, and a function that asks it."""
    home.mkdir(parents=True, exist_ok=True)
    arrays = proxy.arrays()
    images = {"train": arrays["train_images"], "test": arrays["predict_images"]}
    labels = {"train_labels": arrays["train_labels"], "test_labels": proxy.labels}
    path = os.pathsep.join([str(python.parent), os.environ.get("PATH", "")])  # they call `pylint` by name

    def read() -> dict[str, Any]:
        if line := process.stdout.readline():
            return json.loads(line)
        raise DataError("the authors' evaluator died", f"its output is in {home / 'authors.log'}")

    def ask(networks: Sequence[Network], seed: int) -> list[dict[str, Any]]:
        """An answer for each, one after the other."""
        answers = []
        for network in networks:
            prm = training.hyperparameters(network.declared, proxy.protocol)
            print(json.dumps({"code": network.code, "prm": prm, "seed": seed}), file=process.stdin, flush=True)
            answers.append(read())
            if answers[-1]["message"]:
                log.warning("theirs failed on %s: %s", network.name, answers[-1]["message"])
        return answers

    with tempfile.TemporaryDirectory() as folder, (home / "authors.log").open("w") as output:
        file = Path(folder) / "images.npz"
        np.savez(file, **{f"{part}_images": i.transpose(0, 2, 3, 1) for part, i in images.items()}, **labels)
        script = Path(__file__).with_name("authors_evaluator.py")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": output, "text": True}
        with subprocess.Popen([python, script, file], cwd=home, env=os.environ | {"PATH": path}, **pipes) as process:
            ready, about = timed(read)
            yield about | {"ready": ready}, ask


def evaluate(pool: Pool, networks: Sequence[Network], seed: int) -> list[Outcome]:
    """The same through a pool."""
    jobs = [(network.candidate, seed) for network in networks]
    outcomes = {job[0].code: outcome for job, outcome in pool.map(jobs)}
    for network in networks:
        if (outcome := outcomes[network.code]).status != Status.OK:
            log.warning("ours failed on %s: %s %s", network.name, outcome.status.value, outcome.message)
    return [outcomes[network.code] for network in networks]


def cpu_seconds() -> float:
    """CPU time of all processes below this one so far; those that have ended count with their parents."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


@dataclass(frozen=True)
class Setting:
    """Where both sides run: the options of the command."""

    python: Path
    home: Path
    workers: int
    device: str
    repeats: int


def compare(group: str, networks: list[Network], protocol: Protocol, setting: Setting) -> pd.DataFrame:
    """One row per network and repeat; both sides in turn after every few networks, the first one changing.

    A row's ``_wall`` and ``_cpu`` are its share of its block's.
    """
    proxy = prepare(protocol, device=setting.device)
    rows: list[dict[str, Any]] = []
    with authors(setting.python, setting.home, proxy) as (about, ask), open_pool(proxy, setting.workers) as pool:
        sides = {"theirs": ask, "ours": partial(evaluate, pool)}
        smallest = min(networks, key=lambda network: network.parameters)
        ask([smallest], seed=99)
        with_each_worker = [replace(smallest, code=f"{smallest.code}\n# {n}") for n in range(setting.workers)]
        evaluate(pool, with_each_worker, seed=99)
        blocks = [networks[start : start + BLOCK] for start in range(0, len(networks), BLOCK)]
        for turn, (repeat, part) in enumerate(product(range(setting.repeats), blocks)):
            spent, results = {}, {}
            for side in sorted(sides, reverse=turn % 2 == 0):
                cpu = cpu_seconds()
                spent[f"{side}_wall"], results[side] = timed(partial(sides[side], part, repeat))
                spent[f"{side}_cpu"] = cpu_seconds() - cpu
            log.info("%s, %d images: %s, load %.1f", group, protocol.train_limit, spent, os.getloadavg()[0])
            for network, answer, outcome in zip(part, results["theirs"], results["ours"], strict=True):
                row = {"group": group, "images": protocol.train_limit, "repeat": repeat, "network": network.name}
                row |= {"family": network.family, "parameters": network.parameters}
                row |= {name: seconds / len(part) for name, seconds in spent.items()}
                rows.append(row | measured(answer, outcome))
    return pd.DataFrame(rows).assign(**{f"authors_{fact}": value for fact, value in about.items()})


def measured(answer: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
    """Accuracies and seconds by stage of one network on both sides."""
    row = {"theirs_accuracy": answer["accuracy"], "ours_accuracy": outcome.score}
    row |= {f"theirs: {stage}": answer["seconds"].get(stage, 0.0) for stage in (*STAGES, "total")}
    ours = {"build": "load", "train": "train", "predict": "predict", "total": "total"}
    row |= {f"ours: {stage}": outcome.seconds.get(name, np.nan) for stage, name in ours.items()}
    row["ours: other"] = row["ours: total"] - sum(row[f"ours: {stage}"] for stage in ("build", "train", "predict"))
    return row


# --- the report, from one row per network, subset and repeat ---------------------------------------------------------


def by_subset(rows: pd.DataFrame, row: Callable[[pd.DataFrame], dict[str, Any]]) -> pd.DataFrame:
    """A table of what ``row`` says of each group and subset."""
    parts = rows.groupby(["group", "images"])
    return pd.DataFrame([{"group": group, "training images": images} | row(part) for (group, images), part in parts])


def throughput(part: pd.DataFrame) -> dict[str, Any]:
    """Candidates per hour."""
    sums, means = part.groupby("repeat").sum(numeric_only=True), part.mean(numeric_only=True)
    ratios = sums["theirs_wall"] / sums["ours_wall"]
    bare = (sums["theirs_wall"] - sum(sums[f"theirs: {stage}"] for stage in CHECKS)) / sums["ours_wall"]
    return {
        "networks": part["network"].nunique(),
        "theirs, per hour": f"{3600 / means['theirs_wall']:.0f}", "ours, per hour": f"{3600 / means['ours_wall']:.0f}",
        "ratio": f"{means['theirs_wall'] / means['ours_wall']:.1f}",
        "by repeat": ", ".join(f"{ratio:.1f}" for ratio in ratios), "without their checks": f"{bare.mean():.1f}",
        "CPU s each, theirs": f"{means['theirs_cpu']:.1f}", "ours": f"{means['ours_cpu']:.1f}",
        "CPU ratio": f"{means['theirs_cpu'] / means['ours_cpu']:.1f}",
    }  # fmt: skip


def stages(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean seconds per candidate by stage."""
    out = []
    for (group, images), part in rows.groupby(["group", "images"]):
        for side in ("theirs", "ours"):
            names = [f"{side}: {stage}" for stage in (*STAGES, "total")]
            means = part.reindex(columns=names).mean()
            values = {n.split(": ")[1]: "" if np.isnan(v) else f"{v:.2f}" for n, v in means.items()}
            out.append({"group": group, "training images": images, "who": side} | values)
    return pd.DataFrame(out)


def per_network(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean times and accuracies of each network, for the first subset of its group."""
    out = []
    for (group, network), part in rows.groupby(["group", "network"], sort=False):
        part = part[part["images"] == part["images"].iloc[0]]
        row = part.mean(numeric_only=True)
        out.append(
            {
                "group": group[:3], "network": network[:24], "family": part["family"].iloc[0],
                "parameters": f"{row['parameters']:,.0f}",
                "theirs, s": f"{row['theirs: total']:.1f}", "ours, s (of one worker)": f"{row['ours: total']:.2f}",
                "theirs, accuracy": f"{row['theirs_accuracy']:.3f}", "ours, accuracy": f"{row['ours_accuracy']:.3f}",
            }
        )  # fmt: skip
    return pd.DataFrame(out)


def accuracies(part: pd.DataFrame) -> dict[str, Any]:
    """Paired differences of accuracy, ours minus theirs, over networks and repeats."""
    difference = (part["ours_accuracy"] - part["theirs_accuracy"]).dropna()
    by_network = difference.groupby(part["network"]).mean()  # repeats of a network are not independent of it
    return {
        "pairs": len(difference), "theirs, mean": f"{part['theirs_accuracy'].mean():.4f}",
        "ours, mean": f"{part['ours_accuracy'].mean():.4f}", "mean difference": f"{difference.mean():+.4f}",
        "SD of a pair": f"{difference.std():.4f}", "standard error, networks": f"{by_network.sem():.4f}",
    }  # fmt: skip


def extrapolated(rows: pd.DataFrame, images: int = 50_000) -> pd.DataFrame:
    """Fixed and per-image seconds of the whole machine per candidate, from two subsets, and the ratio at full size."""
    out = []
    for group, part in rows.groupby("group"):
        if part["images"].nunique() < 2:
            continue
        row, whole = {"group": group}, {}
        for side in ("theirs", "ours"):
            slope, fixed = np.polyfit(part["images"], part[f"{side}_wall"], 1)
            whole[side] = fixed + slope * images
            row |= {f"{side}, fixed s": f"{fixed:.2f}", f"{side}, s per 1,000 images": f"{1000 * slope:.2f}"}
        out.append(row | {f"ratio at {images:,} images": f"{whole['theirs'] / whole['ours']:.1f}"})
    return pd.DataFrame(out)


def notes(rows: pd.DataFrame, setting: Setting) -> list[str]:
    """How it was measured."""
    failed = {
        side: sorted(rows.loc[rows[f"{side}_accuracy"].isna(), "network"].unique()) for side in ("theirs", "ours")
    }
    return [
        f"Theirs: check_nn with its defaults (save_to_db=False, one DataLoader worker), one candidate after the other, "
        f"{rows['authors_threads'].iloc[0]} torch threads, torch {rows['authors_torch'].iloc[0]}; one process, started "
        f"in {rows['authors_ready'].min():.0f} s with its data base built. Ours: {setting.workers} candidates at a "
        f"time on {setting.device}, one thread each, every one in a fresh sandboxed process.",
        f"CIFAR-10 at 32 px, one epoch, batch 64, lr 0.01, momentum 0.9, dropout 0.2, transform norm_32; {HOLDOUT} "
        f"images are predicted. Wall clock of blocks of {BLOCK} networks, sides in turn, the first one changing; ours "
        "waits for a block's last candidate, so part of the machine idles then.",
        "Theirs includes a code quality score (pylint, and a trial run at 224 px) that ours does not compute; "
        "`without their checks` leaves both out of their time. It does not include the seconds that the real CIFAR10 "
        "class takes to check and unpickle its archive for each candidate. Stages are exclusive; `data loader` is the "
        "wait for it.",
        f"Networks: drawn with a seed, families in turn, among those that our evaluator accepts{'; of the large ones '}"
        f"{' and '.join(NAMED)} by name. Failed: theirs {failed['theirs'] or 'none'}, ours {failed['ours'] or 'none'}.",
    ]


def check_environment(python: Path) -> None:
    """UsageError unless the pinned nn-dataset and pylint are there."""
    say = "import importlib.metadata as m; print(m.version('nn-dataset'))"
    installed = subprocess.run([python, "-c", say], capture_output=True, text=True, check=False).stdout.strip()
    if installed != VERSION:
        raise UsageError(
            f"{python} has nn-dataset {installed or '(none)'}, not {VERSION}", "see the head of evaluator.py"
        )
    if not shutil.which("pylint", path=str(python.parent)) and not shutil.which("pylint"):
        raise UsageError("there is no pylint, which the authors' evaluator calls", f"install it for {python}")


@click.command()
@click.option("--authors-python", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--small", default=12, show_default=True, help="networks within 500 K parameters")
@click.option("--large", default=6, show_default=True, help="networks beyond")
@click.option("--images", multiple=True, type=int, default=(2000, 6000), show_default=True, help="of group (a)")
@click.option("--large-images", multiple=True, type=int, default=(1000,), show_default=True, help="of group (b)")
@click.option("--repeats", default=2, show_default=True)
@click.option("--workers", default=os.cpu_count() or 1, show_default="cores", help="our candidates at a time")
@click.option("--device", default="cpu", show_default=True, help="of ours; theirs takes a GPU if there is one")
@click.option("--seed", default=0, show_default=True, help="of the draw of networks")
@click.option("--note", default="", help="a sentence for the result, on what else the machine did")
def main(authors_python, small, large, images, large_images, repeats, workers, device, seed, note) -> None:
    """Candidates per hour of the authors' evaluator and of ours."""
    logging.basicConfig(level=logging.WARNING)
    log.setLevel(logging.INFO)
    python = authors_python.absolute()
    check_environment(python)
    setting = Setting(python, paths.cache_folder() / "nn-dataset-home", workers, device, repeats)
    base = replace(get_protocol("paper-b"), holdout_fraction=HOLDOUT / 50_000)
    unlimited = replace(base, max_parameters=None)
    groups = {SMALL: (choose(drawn(seed), base, small, 0), base, images)}
    others = (network for network in drawn(seed) if network.name not in NAMED)
    by_name = sorted((network for network in drawn(seed) if network.name in NAMED), key=lambda it: it.name)[:large]
    networks = choose(iter(by_name), unlimited, len(by_name), LIMIT)
    networks += choose(others, unlimited, large - len(by_name), LIMIT)
    groups[LARGE] = networks, unlimited, large_images
    frames = [
        compare(group, networks, replace(protocol, train_limit=size), setting)
        for group, (networks, protocol, sizes) in groups.items()
        for size in sizes
        if networks
    ]
    rows = pd.concat(frames, ignore_index=True)
    tables = {
        "Candidates per hour": by_subset(rows, throughput),
        "Where the time goes: mean seconds per candidate": stages(rows),
        "Full size, extrapolated": extrapolated(rows),
        "Same protocol? Accuracies": by_subset(rows, accuracies),
        "Networks": per_network(rows),
    }
    tables = {heading: table for heading, table in tables.items() if len(table)}
    title = "Evaluator: nn-dataset's check_nn and ours on LEMUR networks"
    said = [*notes(rows, setting), *filter(None, [note])]
    write_result(title, tables, said, packages=("torch", "torchvision", "numpy"))


if __name__ == "__main__":
    main()
