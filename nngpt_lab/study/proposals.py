"""From prompts to scored candidates: what the loops of papers A, B and D share.

proposed = write(bench, run, asked, seeds, lambda: coder)     # texts as they end, filed in the ledger
screened, rows = score(bench, proposed, seed)                 # evaluated while the next are being written
"""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from nngpt_lab.candidates import pool
from nngpt_lab.candidates.outcome import Candidate
from nngpt_lab.candidates.screening import Screened, screen
from nngpt_lab.ground.hashing import sha256_json
from nngpt_lab.llm import adapters, sampling
from nngpt_lab.llm.models import Coder
from nngpt_lab.llm.prompts import encode
from nngpt_lab.llm.server_engine import Answer, Server
from nngpt_lab.sandbox.status import Status
from nngpt_lab.study.lab import Bench

Reader = Callable[[int, str], Screened]
CUT = "cut"  # a folder beside the adapters, a file a run: SHA-256 of each place and text that the length limit cut
TOKENS = "served_tokens.jsonl"  # beside the adapters: SHA-256 of a server's text, and how many tokens it took


def write(
    bench: Bench,
    run: str,
    asked: list,
    seeds: Sequence[int],
    coder: Callable[[], Coder],
    heat: float = 0.0,
    read: Reader | None = None,
) -> Generator[tuple[int, Screened]]:
    """Sample what the ledger does not hold yet, batch by batch; file each text and yield it as it ends, with its place.

    ``coder`` is called when it is needed. A batch that was interrupted is written again whole: on the same machine the
    same batch gives the same texts. A server's never are, and only what is missing is asked for. ``read``: what makes a
    candidate of a place and its text, instead of ``screen``.
    """
    held, design = bench.ledger.texts(run), bench.design

    def filed(place: int, text: str) -> tuple[int, Screened]:
        return place, file_text(bench, run, place, text, seeds[place], sha256_json(asked[place]), read)

    decoding = replace(
        design.decoding, temperature=min(design.decoding.temperature + heat, max(1.0, design.decoding.temperature))
    )
    for start in range(0, len(asked), design.batch):
        places = range(start, min(start + design.batch, len(asked)))
        yield from (filed(place, held[place]) for place in places if place in held)
        if not (missing := [place for place in places if place not in held]):
            continue
        model = coder()
        drawn = _sampled(bench, model, asked, seeds, missing if model.server else places, decoding)
        with contextlib.closing(drawn):
            for place, answer in drawn:
                if place in held:
                    continue
                if not answer.finished:
                    _note_cut(bench, run, place, answer.text)
                yield filed(place, answer.text)


def _sampled(
    bench: Bench, model: Coder, asked: list, seeds: Sequence[int], places: Sequence[int], decoding: sampling.Decoding
) -> Generator[tuple[int, Answer | sampling.Sample]]:
    """The answers of some places of a batch as they end."""
    drawn = [seeds[place] for place in places]
    if model.server:
        settings = {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": decoding.top_k}
        settings |= {"max_tokens": decoding.max_new_tokens}
        texts = [asked[place] for place in places]
        with (
            _at_the_server(model) as server,
            contextlib.closing(server.chats(texts, drawn, settings, len(places))) as replies,
        ):
            for index, reply in replies:
                _note_tokens(bench, reply)
                yield places[index], reply
        return
    prompts = [encode(model.tokenizer, asked[place]) for place in places]
    written = sampling.stream(model, prompts, drawn, decoding, batch_size=len(places), progress=False)
    with sampling.merged(model), contextlib.closing(written):
        for index, answer in written:
            yield places[index], answer


@contextlib.contextmanager
def _at_the_server(model: Coder) -> Iterator[Server]:
    """A coder's server, given the coder's adapter if it has one."""
    assert model.server
    if not adapters.is_adapted(model):
        yield model.server
        return
    with tempfile.TemporaryDirectory() as folder:
        adapters.save_adapter(model, Path(folder) / "adapter")
        with model.server.adapter(Path(folder) / "adapter") as server:
            yield server


def _note_tokens(bench: Bench, reply: Answer) -> None:
    """Without a tokenizer only the server knows how many tokens a text took, and only when it writes it."""
    if bench.coder.tokenizer is None and reply.tokens is not None:
        bench.folder.mkdir(parents=True, exist_ok=True)
        with (bench.folder / TOKENS).open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps([sha256_json(reply.text), reply.tokens])}\n")


def _cuts(bench: Bench, run: str) -> Path:
    return bench.folder / CUT / f"{sha256_json(run)[:16]}.txt"


def _note_cut(bench: Bench, run: str, place: int, text: str) -> None:
    file = _cuts(bench, run)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as lines:
        lines.write(f"{sha256_json([place, text])}\n")


def was_cut(bench: Bench, run: str, place: int, text: str) -> bool:
    """Whether the length limit cut this text of a run: only whoever wrote it knows. Its tokens, counted again, may be
    fewer than were written, and some servers' models have no tokenizer here."""
    file = _cuts(bench, run)
    return file.exists() and sha256_json([place, text]) in file.read_text(encoding="utf-8").splitlines()


def count_tokens(bench: Bench, texts: Sequence[str]) -> list[float]:
    """How many tokens each text took; nan where nobody knows."""
    if bench.coder.tokenizer is not None:
        return [len(bench.coder.tokenizer(text)["input_ids"]) for text in texts]
    file = bench.folder / TOKENS
    known = dict(map(json.loads, file.read_text(encoding="utf-8").splitlines())) if file.exists() else {}
    return [known.get(sha256_json(text), math.nan) for text in texts]


def file_text(
    bench: Bench, run: str, place: int, text: str, seed: int | None, prompt_hash: str = "", read: Reader | None = None
) -> Screened:
    """Extract a text's code, hold it against the contract, and file it; ``seed`` is None for what was not sampled."""
    if read is None:
        sample = screen(text, bench.proxy.protocol.kind, prompt_hash=prompt_hash, sampling_seed=seed)
    else:
        sample = read(place, text)
        drawn = replace(sample.candidate, prompt_hash=prompt_hash, sampling_seed=seed)
        sample = replace(sample, candidate=drawn)
    bench.ledger.add_sample(run, place, sample.candidate, sample.status, sample.message, sample.source.value)
    return sample


def score(bench: Bench, proposed: Generator[tuple[int, Screened]], seed: int) -> tuple[list[Screened], pd.DataFrame]:
    """Train what keeps the contract, each code once, while the next is being written; one row per sample.

    Returns:
        What was proposed, and a table of what came of it, both in the order of the positions: position, code_hash,
        status, score (null unless ok), parameters, tokens.
    """
    samples: dict[int, Screened] = {}

    def sound() -> Iterator[Candidate]:
        for place, sample in proposed:
            samples[place] = sample
            if sample.status == Status.OK:
                yield sample.candidate

    with contextlib.closing(proposed):
        outcomes = pool.evaluate(sound(), bench.proxy, bench.ledger, seeds=(seed,), pool=bench.pool, progress=False)
    trained = (sample.candidate.code_hash for sample in samples.values() if sample.status == Status.OK)
    by_hash = dict(zip(trained, outcomes, strict=True))
    screened, rows = [samples[place] for place in sorted(samples)], []
    for position, sample in enumerate(screened):
        row = {"position": position, "code_hash": sample.candidate.code_hash, "status": sample.status.value}
        row |= {"score": None, "parameters": None}
        if sample.status == Status.OK:
            outcome = by_hash[sample.candidate.code_hash]
            row |= {"status": outcome.status.value, "score": outcome.score, "parameters": outcome.parameters}
        rows.append(row)
    tokens = count_tokens(bench, [sample.candidate.text for sample in screened])
    return screened, pd.DataFrame(rows).assign(tokens=tokens).astype({"parameters": "Int64", "score": float})
