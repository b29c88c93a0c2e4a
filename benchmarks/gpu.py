"""The five parts of a run on a GPU, each the plain way and the fast way, in one call of a few minutes.

    python benchmarks/gpu.py --model FOLDER_OR_GGUF --minutes 8
    python benchmarks/gpu.py --shape 0.5B              # random weights of that shape: as fast as real ones
    python benchmarks/gpu.py --dry-run                 # a tiny model on a CPU, two minutes: does every row work?

Needs the package, a model (or none) and, on a GPU, CIFAR-10 as the lab finds it (``NNGPT_LAB_DATA``). Every row is a
process of its own with a share of the time, so that one that fails or hangs costs no other. Prints a JSON line a row,
then a table. What travels to another machine is the ratio between the two ways, not the rates.
"""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch
from common import RESULTS, timed, write_result

from nngpt_lab.candidates import proxy as candidates_proxy
from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.outcome import Candidate, Kind
from nngpt_lab.candidates.pool import default_workers, evaluate, open_pool
from nngpt_lab.candidates.protocols import get_protocol
from nngpt_lab.candidates.proxy import Proxy, prepare
from nngpt_lab.ground import paths
from nngpt_lab.llm import adapters, models
from nngpt_lab.llm.decoding import Decoding
from nngpt_lab.llm.likelihood import by_group
from nngpt_lab.llm.lora import Example, tune
from nngpt_lab.llm.models import Coder
from nngpt_lab.llm.recipe import Recipe
from nngpt_lab.llm.sampling import sample, stream

SHAPES = {  # Qwen2.5-Coder's: width, layers, heads, key-value heads, inner width, vocabulary
    "tiny": (64, 2, 4, 2, 128, 2048),
    "0.5B": (896, 24, 14, 2, 4864, 151_936),
    "1.5B": (1536, 28, 12, 2, 8960, 151_936),
    "7B": (3584, 28, 28, 4, 18_944, 152_064),
}
CODE_CHARACTERS = 2000  # of a source, as paper C shows them: some 500 to 800 tokens


@dataclass(frozen=True)
class Size:
    """How much each row does: groups of questions, texts and their tokens, examples, networks."""

    groups: int
    texts: int
    slots: int
    tokens: int
    examples: int
    networks: int
    protocol: str


FULL = Size(groups=64, texts=128, slots=64, tokens=512, examples=160, networks=48, protocol="paper-b")
DRY = Size(groups=3, texts=4, slots=2, tokens=8, examples=6, networks=2, protocol="digits-loop")
SHARES = {"evaluator": 4, "loop": 2}  # of the time; one for each of the others


# --- what is worked on ------------------------------------------------------------------------------------------------


def load(model: str | None, shape: str, device: str) -> Coder:
    """The model named, or random weights of a shape; the tokenizer of those is the nano coder's."""
    if model is not None:
        return models.load(model, device)
    from transformers import Qwen2Config, Qwen2ForCausalLM

    width, layers, heads, kv_heads, inner, vocabulary = SHAPES[shape]
    config = Qwen2Config(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
        intermediate_size=inner, vocab_size=vocabulary, max_position_embeddings=8192, tie_word_embeddings=shape != "7B",
    )  # fmt: skip
    kind = getattr(torch, models.dtype_name(None, device))
    nano = models.load("nano-coder")
    torch.manual_seed(0)
    with torch.device(device):
        made = Qwen2ForCausalLM._from_config(config, dtype=kind).eval()
    return Coder(made, nano.tokenizer, f"random {shape}", {"name": f"random {shape}"})


def codes() -> Iterator[str]:
    """Python sources, as long as those that paper C shows: the package's own, cut."""
    while True:
        for file in sorted(paths.PACKAGE.rglob("*.py")):
            text = file.read_text(encoding="utf-8")
            yield from (
                text[at : at + CODE_CHARACTERS] for at in range(0, len(text) - CODE_CHARACTERS, CODE_CHARACTERS)
            )


def encoded(coder: Coder, count: int) -> list[list[int]]:
    """So many sources as token ids."""
    texts = codes()
    return [coder.tokenizer(next(texts), add_special_tokens=False)["input_ids"] for _ in range(count)]


def networks(count: int) -> list[Candidate]:
    """Small convolutional networks of different widths under LEMUR's contract; about 25,000 weights each."""
    source = (paths.PACKAGE / "candidates" / "small_network.py").read_text(encoding="utf-8")
    made = (
        source.replace("(in_shape[1], 16, 32, 64)", f"(in_shape[1], 16, 32, {64 + place})") for place in range(count)
    )
    return [Candidate(code, code, Kind.ARCHITECTURE) for code in made]


# --- the rows ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """What a row measured. ``rates``: by way, the plain one first; ``same``: what shows that the ways agree."""

    unit: str
    rates: dict[str, float]
    same: str
    note: str = ""


def synchronised(call: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds of a call, the GPU's work included, and what it returns."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()

    def whole() -> Any:
        result = call()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return result

    return timed(whole)


def answers(coder: Coder, size: Size, device: str) -> Row:
    """Paper C's likelihoods: a network's questions in a pass, or those of many."""
    ends = [coder.tokenizer(name, add_special_tokens=False)["input_ids"] for name in (" mnist", " cifar-10")]
    groups = [[[*code, *end] for end in ends] for code in encoded(coder, size.groups)]
    firsts = [[len(text) - len(end) for text, end in zip(group, ends, strict=True)] for group in groups]
    return compare_answers(coder, groups, firsts, device)


def compare_answers(coder: Coder, groups: list, firsts: list, device: str) -> Row:
    """Every group alone against all in one call."""

    def alone() -> list:
        return [by_group(coder, [group], [first])[0] for group, first in zip(groups, firsts, strict=True)]

    def together() -> list:
        return by_group(coder, groups, firsts)

    by_group(coder, groups[:2], firsts[:2])  # the first call of any kernel is slow
    slow, one = synchronised(alone, device)
    fast, many = synchronised(together, device)
    apart = max(abs((a[0] - a[1]) - (b[0] - b[1])) for a, b in zip(one, many, strict=True))
    rates = {"a network a pass": len(groups) / slow, "many a pass": len(groups) / fast}
    return Row("networks asked about/s", rates, f"log-odds apart by at most {apart:.1e}")


def sampling(coder: Coder, size: Size, device: str) -> Row:
    """Texts written in batches that stay full, or in fixed slots with the step in a CUDA graph."""
    decoding = Decoding(temperature=0.8, top_k=50, top_p=0.9, max_new_tokens=size.tokens)
    prompts, seeds = encoded(coder, 4) * math.ceil(size.texts / 4), range(size.texts)
    prompts, rates, written = prompts[: size.texts], {}, {}
    for engine in ("joining", "slots"):
        most = size.texts if engine == "slots" else max(2, size.texts // 2)

        def write(most: int = most, engine: str = engine) -> list:
            options = {"batch_size": size.slots, "engine": engine, "progress": False}
            return sample(coder, prompts[:most], list(seeds)[:most], decoding, **options)

        seconds, written[engine] = synchronised(write, device)
        rates[engine] = sum(text.new_tokens for text in written[engine]) / seconds
    pairs = list(zip(*written.values(), strict=False))
    same = sum(a.text == b.text for a, b in pairs)
    return Row("new tokens/s", rates, f"{same} of {len(pairs)} texts equal", f"{size.slots} at a time")


def lora(coder: Coder, size: Size, device: str, batch: int = 16, accumulate: int = 1) -> Row:
    """Tuning on padded micro-batches, or on one packed row a pass."""
    recipe = Recipe(lr=2e-4, epochs=1, batch=batch, accumulate=accumulate, warmup=0.05, layers=None, dropout=0.0)
    ids = [tuple(code) for code in encoded(coder, size.examples)]
    examples = [Example(code, len(code) // 2) for code in ids]
    rates, losses, speeds = {}, [], []
    weights = sum(parameter.numel() for parameter in coder.model.parameters())
    for way, packed in (("padded", False), ("packed", True)):
        tuned = adapters.add_adapter(coder, recipe, seed=0)
        train = partial(tune, tuned, recipe=recipe, seed=0, progress=False, packed=packed)
        train(examples[:16])  # the first call of any kernel is slow
        seconds, curve = synchronised(partial(train, examples), device)
        coder = adapters.remove_adapter(tuned)
        rates[way] = curve["tokens"].sum() / seconds  # with the pass that tries whether the memory is there
        losses.append(f"{way} {curve['loss'].mean():.4f}")
        # Forward and backward through weights whose own gradients are not made: 4 operations a weight and token
        speeds.append(f"{way} {4 * weights * rates[way] / 1e12:.0f} TFLOP/s")
    steps = f"{batch} examples at once, {accumulate} times a step"
    return Row("tokens/s", rates, "mean loss " + ", ".join(losses), f"{steps}; {', '.join(speeds)}")


def lora_paper(coder: Coder, size: Size, device: str) -> Row:
    """The same with paper B's steps: one example at a time, eight to a step; on fewer, for the plain way is slow."""
    return lora(coder, replace(size, examples=max(6, size.examples // 3)), device, batch=1, accumulate=8)


def evaluator(coder: None, size: Size, device: str) -> Row:
    """Eight candidates at a time in children that start CUDA when their code is there; and as many as the machine
    carries, in children that are ready before."""
    proxy, most = prepare(get_protocol(size.protocol), device=device), default_workers(device)
    few = networks(max(2, min(8, most, size.networks), size.networks // 3))  # at least a round
    many = networks(size.networks)
    with without_spares():
        slow, alone = trained(proxy, few, min(8, most))
    fast, together = trained(proxy, many, most)
    rates = {
        f"{min(8, most)} at a time, none ready": 3600 * len(few) / slow,
        f"{most} at a time": 3600 * len(many) / fast,
    }
    same = sum(a == b for a, b in zip(alone, together, strict=False))
    return Row("candidates/h", rates, f"{same} of {len(few)} scores equal", size.protocol)


@contextlib.contextmanager
def without_spares() -> Iterator[None]:
    """Evaluators whose next child does not start before its code is there."""
    whole = candidates_proxy.Sandbox
    candidates_proxy.Sandbox = lambda *given, warm=None, **options: whole(*given, **options)  # type: ignore
    try:
        yield
    finally:
        candidates_proxy.Sandbox = whole  # type: ignore


def trained(
    proxy: Proxy,
    candidates: list[Candidate],
    workers: int | None,
    given: Callable[[], Iterable[Candidate]] | None = None,
) -> tuple[float, list[float | None]]:
    """Seconds for these candidates (``given`` says when each is known) in a warm pool, and their scores."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Ledger(Path(folder, "ledger.sqlite")) as ledger,
        open_pool(proxy, workers) as pool,
    ):
        work = partial(evaluate, proxy=proxy, ledger=ledger, pool=pool, progress=False)
        warm = (f"{each.code}\n# {place}" for place, each in enumerate(candidates[:workers]))
        work([Candidate(code, code, Kind.ARCHITECTURE) for code in warm])
        seconds, outcomes = timed(lambda: work(given() if given else candidates))
    if failed := [outcome.message for outcome in outcomes if outcome.score is None]:
        raise click.ClickException(f"{len(failed)} of {len(outcomes)} candidates failed: {failed[0]}")
    return seconds, [outcome.score for outcome in outcomes]


def loop(coder: Coder, size: Size, device: str) -> Row:
    """A cycle: all texts first and then training, or each candidate trained as soon as its text has ended."""
    decoding = Decoding(temperature=0.8, top_k=50, top_p=0.9, max_new_tokens=size.tokens)
    proxy, candidates = prepare(get_protocol(size.protocol), device=device), networks(size.networks)
    prompts, seeds = encoded(coder, 1) * size.networks, range(size.networks)

    def proposed() -> Iterator[Candidate]:  # what a text says does not matter here: its network is given
        for index, _ in stream(coder, prompts, seeds, decoding, batch_size=size.slots, progress=False):
            yield candidates[index]

    ways = {"one after the other": lambda: list(proposed()), "both at once": proposed}
    list(proposed())  # the first call of any kernel is slow
    runs = {way: trained(proxy, candidates, default_workers(device), given) for way, given in ways.items()}
    same = sum(a == b for a, b in zip(*(sorted(scores) for _, scores in runs.values()), strict=True))
    rates = {way: 3600 * len(candidates) / seconds for way, (seconds, _) in runs.items()}
    return Row("candidates/h", rates, f"{same} of {len(candidates)} scores equal", f"{len(candidates)} a cycle")


ROWS = {row.__name__: row for row in (answers, sampling, lora, lora_paper, evaluator, loop)}


def named_rows(names: str) -> list[str]:
    """The rows that are named, in the order of :data:`ROWS`; click.BadParameter for what is none."""
    wanted = {name.strip() for name in names.split(",")}
    if unknown := sorted(wanted - set(ROWS)):
        raise click.BadParameter(f"no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return [name for name in ROWS if name in wanted]


# --- the call ---------------------------------------------------------------------------------------------------------


def run_rows(names: Sequence[str], options: Sequence[str], minutes: float) -> list[dict[str, Any]]:
    """Each row in a process of its own, within what is left of the time; a JSON line each as it comes."""
    end, lines = time.monotonic() + 60 * minutes, []
    for place, name in enumerate(names):
        left = sum(SHARES.get(other, 1) for other in names[place:])
        share = max(30.0, 2 * SHARES.get(name, 1) * (end - time.monotonic()) / left)
        line: dict[str, Any] = {"row": name}
        try:
            command = [sys.executable, __file__, "--row", name, *options]
            done = subprocess.run(command, capture_output=True, text=True, timeout=share)
            said = done.stdout.strip().splitlines()
            line |= json.loads(said[-1]) if done.returncode == 0 else {"failed": done.stderr.strip()[-600:]}
        except subprocess.TimeoutExpired:
            line |= {"failed": f"took longer than {share:.0f} s"}
        except (ValueError, IndexError):
            line |= {"failed": "said nothing"}
        lines.append(line)
        print(json.dumps(line), flush=True)
    return lines


def table(lines: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """A row per part: what the plain way and the fast one reach, and how many times that is."""
    rows = []
    for line in lines:
        if "failed" in line:
            rows.append((line["row"], "", "", "", "", line["failed"].splitlines()[-1] if line["failed"] else "failed"))
            continue
        (plain, before), *others = line["rates"].items()
        fast, after = others[-1] if others else (plain, before)
        shown = (f"{plain}: {before:,.1f}", f"{fast}: {after:,.1f}", f"{after / before:.1f}")
        rows.append((line["row"], line["unit"], *shown, "; ".join(filter(None, (line["same"], line["note"])))))
    return pd.DataFrame(rows, columns=["part", "unit", "plain way", "fast way", "times", "seen"])


@click.command()
@click.option("--model", help="A name, a folder or a GGUF file.  [default: random weights of --shape]")
@click.option("--shape", type=click.Choice(list(SHAPES)), default="0.5B", show_default=True)
@click.option("--minutes", default=8.0, show_default=True, help="About so long in all.")
@click.option(
    "--rows",
    default=",".join(ROWS),
    show_default=True,
    callback=lambda context, option, given: named_rows(given),
    help="Which parts, separated by commas; some alone are written to a file of their own.",
)
@click.option("--candidates", type=click.IntRange(1), help="Of the evaluator and the loop.  [default: 48]")
@click.option("--dry-run", is_flag=True, help="A tiny model on a CPU: whether every row works.")
@click.option("--row", hidden=True)
def main(
    model: str | None,
    shape: str,
    minutes: float,
    rows: list[str],
    candidates: int | None,
    dry_run: bool,
    row: str | None,
) -> None:
    """Answers, sampling, tuning, evaluation and the loop on this machine's GPU, the plain way and the fast way."""
    size, device = (DRY, "cpu") if dry_run else (FULL, "cuda")
    size = replace(size, networks=candidates or size.networks)
    if row:
        coder = None if row == "evaluator" else load(model, "tiny" if dry_run else shape, device)
        print(json.dumps(vars(ROWS[row](coder, size, device))))
        return
    options = ["--shape", shape, "--candidates", str(size.networks), *(["--dry-run"] if dry_run else [])]
    options += ["--model", model] if model else []
    prepare(get_protocol(size.protocol))  # images are compiled once, so that no row has to wait for it
    lines = run_rows(rows, options, minutes)
    notes = (
        f"Model: {(model and Path(model).name) or f'random weights, {shape}'}; {size.groups} networks asked about, "
        f"{size.texts} texts of up to {size.tokens} tokens, {size.examples} examples, {size.networks} candidates.",
        "One run; every row in a process of its own, warmed up before it is timed.",
    )
    failed = any("failed" in line for line in lines)
    name = "gpu" if rows == list(ROWS) else "-".join(["gpu", *rows])
    if dry_run or (failed and (RESULTS / f"{name}.md").exists()):  # what was measured before stays
        print(table(lines).to_string(index=False))
    else:
        title, packages = "On a GPU: the plain way and the fast way", ("torch", "transformers", "peft")
        write_result(title, {"Parts": table(lines)}, notes, packages, name)
    sys.exit(failed)


if __name__ == "__main__":
    main()
