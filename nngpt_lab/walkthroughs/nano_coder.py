"""How the nano coder is made: which of LEMUR it reads, what is held out and why, from text to weights.

    corpus = distinct(narrowed())                             narrowed LEMUR, one row per distinct network
    corpus = corpus.join(check(corpus, ledger))               trained for two steps each, in the sandbox
    corpus["part"] = split(corpus)                            train, best, reserved, or why it was left out
    text = training_text(corpus, published_functions(), ...)  vocabulary and documents
    model, curve = train(text, recipe, seed, folder)          weights from scratch
    save_model(folder, model, text.tokenizer)                 what ``llm.models.load`` reads

What later experiments must not have seen stays out of ``train``, with every copy of it (equal but for names):

* ``best``: the tenth of each family with the highest accuracy after one epoch on CIFAR-10 that the authors recorded, so
  that a later rise is learned and not remembered; likewise the best tenth of paper A's functions;
* ``reserved``: a tenth of the rest, by hash: held-out text for the loss, and paper C's test architectures.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from nngpt_lab.candidates import proxy, small_network
from nngpt_lab.candidates.extract import extract
from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.outcome import Kind
from nngpt_lab.candidates.protocols import get_protocol
from nngpt_lab.candidates.screening import screen
from nngpt_lab.corpora import architectures, augmentations
from nngpt_lab.corpora.code import code_hash, describe, tidy
from nngpt_lab.corpora.narrow import CARD, narrow
from nngpt_lab.ground.hashing import sha256_json
from nngpt_lab.ground.names import named
from nngpt_lab.ground.processes import in_processes
from nngpt_lab.ground.settings import choose
from nngpt_lab.llm import lora, models
from nngpt_lab.llm.decoding import Decoding
from nngpt_lab.llm.lora import Example
from nngpt_lab.llm.models import Coder
from nngpt_lab.llm.prompts import Prompt, encode, encode_pair, prompt
from nngpt_lab.llm.sampling import sample
from nngpt_lab.walkthroughs import pretraining
from nngpt_lab.walkthroughs.evaluations import evaluated, stratified
from nngpt_lab.walkthroughs.pretraining import Architecture, Schedule

LONGEST = 5000  # characters of a narrowed source; longer ones (all FractalNets) would take most of the tokens
BEST_SHARE = 0.1
RESERVED = 10  # one in so many
CHECK = replace(get_protocol("digits"), name="check", source="lab", train_limit=32, wall_seconds=30.0)
"""Two steps on 32 digits and predictions for the holdout: enough to know that every shape fits."""


def narrowed(sample: int | None = None, seed: int = 0) -> pd.DataFrame:
    """LEMUR's sources that parse, narrowed, by name: one to three minutes for all of them on two cores. ``sample``:
    only so many, as equal a number as possible from each family; None or more than there are: all.

    Columns name, family, code, program (hash up to names), characters, layer_calls; the same of the source as it was
    (``code_before``, ``program_before``, ``layer_calls_before``); and ``recorded``, the best accuracy after one epoch
    on CIFAR-10 that the authors recorded for the network or a copy of it, null where there is none.
    """
    lemur = architectures.load()
    table = lemur.architectures.query("parses").sort_values("name").astype({"name": str, "family": str})
    if sample is not None:
        table = stratified(table, "family", sample, np.random.default_rng(seed))
    before = {"code": "code_before", "nameless_hash": "program_before", "layer_calls": "layer_calls_before"}
    table = table[["name", "family", *before]].rename(columns=before).reset_index(drop=True)
    table = table.join(pd.DataFrame(list(in_processes(_narrowed, list(table["code_before"]), "narrowed"))))
    records = architectures.classification(lemur.records).query("dataset == 'cifar-10' and epoch == 1")
    table["recorded"] = table["name"].map(records.groupby("architecture", observed=True)["accuracy"].max())
    table["recorded"] = table.groupby("program")["recorded"].transform("max")
    return table


def distinct(table: pd.DataFrame) -> pd.DataFrame:
    """One row per program up to names, the first by name; what is too long stays, so that the split can say so."""
    return table.drop_duplicates("program", ignore_index=True)


def _narrowed(code: str) -> dict:
    text = narrow(code)
    facts = describe(text)
    sizes = {"characters": facts.characters, "layer_calls": facts.layer_calls}
    return {"code": text, "program": facts.nameless_hash} | sizes


def check(corpus: pd.DataFrame, ledger: Ledger, workers: int | None = None) -> pd.DataFrame:
    """Instantiate and train each narrowed network for two steps: columns status and parameters, like ``corpus``. What
    is too long has the status ``too long`` and is not run."""
    codes = corpus.loc[corpus["characters"] <= LONGEST, "code"]
    outcomes = evaluated(codes, proxy.prepare(CHECK), ledger, workers)
    return outcomes[["status", "parameters"]].reindex(corpus.index).fillna({"status": "too long"})


def split(corpus: pd.DataFrame) -> pd.Series:
    """The part of each row (columns family, program, recorded, status): train, best, reserved, or its failure."""
    usable = corpus[corpus["status"] == "ok"]
    parts = _parts(usable["program"], usable.groupby("family")["recorded"])
    return parts.reindex(corpus.index).fillna(corpus["status"])


def function_parts(functions: pd.DataFrame) -> pd.Series:
    """The part of paper A's scored functions (columns score, code): train, best or reserved."""
    return _parts(functions["code"].map(lambda code: code_hash(tidy(code))), functions["score"])


def _parts(programs: pd.Series, scores) -> pd.Series:
    """``best``: the best by ``scores`` (within its groups, if it has such); then ``reserved``, by hash; else train."""
    part = programs.map(reserved).map({True: "reserved", False: "train"})
    return part.mask(scores.rank(pct=True) > 1 - BEST_SHARE, "best")


def reserved(program: str) -> bool:
    """Whether a network is kept for tests, by the hash of its program up to names."""
    return int(program[:8], 16) % RESERVED == 0


def document(asked: Prompt, values: dict[str, str | int], answer: str, tokenizer) -> Example:
    """A prompt filled in with ``values``, and its answer, in the tokenizer's chat template."""
    ids, start = encode_pair(tokenizer, asked.messages(**values), answer)
    return Example(tuple(ids), start)


def architecture_document(code: str, dataset: str, tokenizer) -> Example:
    """A network as the answer to the question for a data set."""
    values: dict[str, str | int] = {"dataset": dataset, "max_parameters": 500_000}
    return document(prompt("architecture_nano"), values, f"```python\n{code}\n```", tokenizer)


DATASETS = ("cifar-10", "cifar-100", "digits", "fashion-mnist", "imagenette", "mnist", "svhn")


def architecture_documents(codes: Sequence[str], tokenizer, rng: np.random.Generator) -> list[Example]:
    """Each network as the answer to a prompt for a data set drawn at random, so that none is tied to one."""
    names = [DATASETS[draw] for draw in rng.integers(len(DATASETS), size=len(codes))]
    return [architecture_document(code, name, tokenizer) for code, name in zip(codes, names, strict=True)]


def function_documents(functions: pd.DataFrame, tokenizer, rng: np.random.Generator) -> list[Example]:
    """Each of paper A's functions as the answer to two others with their accuracies, all three drawn at random.

    The form is that of the paper's prompt, but the answer is not better than the references, except by chance: what
    accuracy has to do with it is left to be learned.
    """
    asked, codes, scores = prompt("transform_nano"), list(functions["code"]), list(functions["score"])
    documents = []
    for code in codes:
        first, second = rng.choice(len(codes), 2, replace=False)
        values = {"transform_code": codes[first], "accuracy": f"{scores[first]:.2f}"}
        values |= {"addon_transform_code": codes[second], "addon_accuracy": f"{scores[second]:.2f}"}
        documents.append(document(asked, values, f"<tr>{code}</tr>", tokenizer))
    return documents


def published_functions() -> pd.DataFrame:
    """Paper A's functions that have a score, tidied, one row per program: columns name, code, score, part."""
    table = augmentations.load().brute_force.dropna(subset="score").sort_values("name")
    table = table.assign(code=table["code"].map(tidy)).drop_duplicates("code")
    return table.assign(part=function_parts(table))[["name", "code", "score", "part"]].reset_index(drop=True)


# ------------------------------------------------------------------------------------------------- from text to weights

FUNCTIONS = 1200  # of paper A's functions in the training text: they are short, and all alike
EVALUATION = lora.Recipe(batch=16)  # of losses; nothing is tuned by it


@dataclass(frozen=True)
class Recipe:
    """One size of pretraining: of LEMUR's sources so many are narrowed (None: all), of paper A's functions so many are
    in the training text, at most, and so many answers are sampled afterwards."""

    networks: int | None = None
    functions: int = FUNCTIONS
    answers: int = 64
    architecture: Architecture = field(default_factory=Architecture)
    schedule: Schedule = field(default_factory=Schedule)


TINY = Architecture(vocabulary=512, width=64, layers=2, heads=4, kv_heads=2, feed_forward=176)
RECIPES = {
    "nano-coder": Recipe(),  # the shipped weights
    # shows every step in seconds, and learns little
    "tiny": Recipe(60, 20, 8, TINY, Schedule(1024, epochs=2, lr=1e-2, warmup=5)),
}


def recipe(name: str, networks: int | None = None, epochs: int | None = None) -> Recipe:
    """The recipe of that name, with another number of networks or epochs where they are not None."""
    own = named("recipe", name, RECIPES)
    schedule = replace(own.schedule, epochs=choose("epochs", epochs, own.schedule.epochs))
    size: Any = own.networks  # None: all that there are
    return replace(own, networks=choose("networks", networks, size), schedule=schedule)


@dataclass(frozen=True)
class TrainingText:
    """Tokenizer and documents: networks by part (train, reserved, best), in the corpus's order, and functions."""

    tokenizer: PreTrainedTokenizerFast
    networks: dict[str, list[Example]]
    functions: list[Example]

    @property
    def train(self) -> list[Example]:
        return self.networks["train"] + self.functions


def training_text(
    corpus: pd.DataFrame, functions: pd.DataFrame, vocabulary: int, count: int = FUNCTIONS, seed: int = 0
) -> TrainingText:
    """The vocabulary, from the training part alone, and all documents."""
    codes = {part: corpus.loc[corpus["part"] == part, "code"].to_list() for part in ("train", "reserved", "best")}
    usable = functions[functions["part"] == "train"]
    chosen = usable.sample(min(count, len(usable)), random_state=seed)
    tokenizer = pretraining.train_tokenizer([*codes["train"], *chosen["code"]], vocabulary)
    rng = np.random.default_rng(seed)
    networks = {"train": architecture_documents(codes.pop("train"), tokenizer, rng)}
    documents = function_documents(chosen, tokenizer, rng)
    networks |= {part: architecture_documents(held_out, tokenizer, rng) for part, held_out in codes.items()}
    return TrainingText(tokenizer, networks, documents)


def train(
    text: TrainingText, recipe: Recipe, seed: int, folder: Path, minutes: float | None = None, device: str = "cpu"
) -> tuple[LlamaForCausalLM, pd.DataFrame]:
    """Weights from scratch, and the curve that ``pretraining.pretrain`` returns.

    Checkpoints lie in a folder of ``folder`` that is named after everything that decides the weights, so a repeated
    call goes on from its own checkpoint and never from another text's or schedule's.
    """
    documents = [asdict(document) for document in text.train]
    decided_by = [asdict(recipe.architecture), asdict(recipe.schedule), seed, documents]
    checkpoints = folder / sha256_json(decided_by)[:12]
    model = pretraining.new_model(text.tokenizer, recipe.architecture, seed).to(device)
    return model, pretraining.pretrain(model, text.train, recipe.schedule, seed, checkpoints, minutes)


def fixed_document(tokenizer) -> Example:
    """A text that ships with the lab and is in no corpus: a test compares the weights' loss on it with the card."""
    return architecture_document(tidy(Path(small_network.__file__).read_text(encoding="utf-8")), "digits", tokenizer)


def losses(coder: Coder, text: TrainingText) -> dict[str, float]:
    """Nats per token of the answers, by part; ``train`` on as many networks as ``reserved`` has, spread over all."""
    parts = text.networks | {"fixed": [fixed_document(text.tokenizer)]}
    parts["train"] = [parts["train"][place] for place in spread(len(parts["train"]), len(parts["reserved"]))]
    return {name: lora.mean_loss(coder, documents, EVALUATION) for name, documents in parts.items() if documents}


def spread(length: int, count: int) -> list[int]:
    """``count`` places in a list of ``length`` (all of them, if there are fewer), evenly spread."""
    return [place * length // count for place in range(count)] if count < length else list(range(length))


def answers(coder: Coder, count: int, seed: int = 0) -> pd.DataFrame:
    """What the model writes when asked for a network: columns contract (its status), tokens, finished, text."""
    ids = encode(coder.tokenizer, prompt("architecture_nano").messages(dataset="digits", max_parameters=500_000))
    decoding = Decoding(temperature=0.9, top_k=50, top_p=0.95, max_new_tokens=512)
    drawn = sample(coder, [ids] * count, range(seed, seed + count), decoding, batch_size=32, progress=False)
    rows = [(screen(s.text, Kind.ARCHITECTURE).status.value, s.new_tokens, s.finished, s.text) for s in drawn]
    return pd.DataFrame(rows, columns=["contract", "tokens", "finished", "text"])


def try_out(written: pd.DataFrame, ledger: Ledger, workers: int | None = None) -> pd.DataFrame:
    """Train each of the ``written`` answers (of :func:`answers`) that keeps the contract for one epoch on digits; adds
    status (after training, the contract's where it was not kept), score and parameters. What failed has no score."""
    texts = written.loc[written["contract"] == "ok", "text"]
    codes = texts.map(lambda text: extract(text, Kind.ARCHITECTURE).code)
    outcomes = evaluated(codes, proxy.prepare("digits"), ledger, workers)
    tried = written.join(outcomes[["status", "score", "parameters"]])
    return tried.assign(status=tried["status"].fillna(tried["contract"]))


def save_model(folder: Path, model, tokenizer) -> None:
    """Write what ``llm.models.load`` reads; weights in float16, which halves their size and costs nothing that the
    losses show."""
    folder.mkdir(parents=True, exist_ok=True)
    with models.without_bars():
        copy.deepcopy(model).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"  # transformers 5 writes a class name that transformers 4 does not know
    settings = json.loads(file.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def save_card(folder: Path, corpus: pd.DataFrame, curve: pd.DataFrame, facts: dict) -> None:
    """Write what the card tells: data and split (names only, no code), steps, and ``facts`` as training.json."""
    columns = ["name", "family", "part", "parameters"]
    corpus[columns].sort_values("name", ignore_index=True).to_parquet(folder / CARD.name, compression="zstd")
    curve.drop(columns="seconds").to_csv(folder / "curve.csv", index=False, float_format="%.5g")
    (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def training_facts(
    recipe: Recipe,
    seed: int,
    coder: Coder,
    text: TrainingText,
    curve: pd.DataFrame,
    by_family: pd.DataFrame,
    written: pd.DataFrame,
) -> dict:
    """The numbers of a card; a minute, for the losses. ``by_family``: losses, a row per family; ``written``: of
    :func:`answers`."""
    documents = {"networks": len(text.networks["train"]), "functions": len(text.functions)}
    return {
        "seed": seed,
        "architecture": asdict(recipe.architecture),
        "schedule": asdict(recipe.schedule),
        "documents": documents | {"tokens": sum(len(document.ids) for document in text.train)},
        "steps": len(curve),
        "loss_last_100_steps": round(float(curve["loss"].tail(100).mean()), 4),
        "losses": {part: round(value, 5) for part, value in losses(coder, text).items()},
        "losses_by_family": json.loads(by_family.set_index("family").to_json(orient="index", double_precision=5)),
        "answers": {
            "count": len(written),
            "statuses": written["contract"].value_counts().to_dict(),
            "tokens": float(written["tokens"].mean()),
        },
        "parameters": sum(parameter.numel() for parameter in coder.model.parameters()),
    }
