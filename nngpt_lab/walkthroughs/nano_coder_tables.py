"""The pretraining walkthrough's tables and figures: narrowing, split, vocabulary, losses and answers."""

from __future__ import annotations

import difflib
import html
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from nngpt_lab.candidates.extract import extract
from nngpt_lab.candidates.outcome import Kind
from nngpt_lab.corpora.code import describe, tidy
from nngpt_lab.corpora.narrow import SOUND
from nngpt_lab.llm import lora
from nngpt_lab.llm.models import Coder
from nngpt_lab.statistics.intervals import wilson
from nngpt_lab.statistics.plots import legend_right, stack
from nngpt_lab.statistics.style import COLOURS, MUTED, OTHER, OURS, PAPER, new_figure
from nngpt_lab.walkthroughs.nano_coder import EVALUATION, TrainingText, spread
from nngpt_lab.walkthroughs.pretraining import LAYER, NUMBER

KINDS = ("number", "layer", "start of a line", "piece of a line", "byte or special")
SOUND_COLOURS = {"train": OURS, "best": COLOURS[1], "reserved": OTHER}
REASON_COLOURS = ("#d9d9d9", "#bdbdbd", "#969696", "#737373", "#525252", "#353535", "#1c1c1c")
TOKEN_COLOURS = {"number": "#ffd27f", "layer": "#a8d5a2"}
ALTERNATING = ("#dbe9f6", "#f0f0f0")
FRAME = "white-space:pre-wrap;line-height:1.45;font-size:12px;font-family:monospace"


def example(corpus: pd.DataFrame, family: str = "ga") -> pd.Series:
    """A network that fits on a screen: the first by name of ``family``, or of all if it has none."""
    short = corpus[corpus["characters"].between(1500, 2500)].sort_values("name")
    short = corpus.sort_values("characters") if short.empty else short
    chosen = short[short["family"] == family]
    return (short if chosen.empty else chosen).iloc[0]


def difference(row: pd.Series) -> str:
    """What narrowing changed in a network (``code_before``, ``code``): a unified diff, comments left out."""
    before, after = tidy(row["code_before"]).splitlines(), row["code"].splitlines()
    return "\n".join(difflib.unified_diff(before, after, "LEMUR", "narrowed", n=1, lineterm=""))


def structure(narrowed: pd.DataFrame, corpus: pd.DataFrame) -> pd.DataFrame:
    """Structure before and after narrowing, and what the check found; a row per family, and all.

    ``narrowed``: every source. ``corpus``: one row per program, with status and parameters. Columns: sources; programs
    (distinct up to names); median calls of a layer before and after, and in how many sources their number changed;
    programs checked; the share of them that runs; median parameters of those that run; and, among those that run or
    would if they were smaller, the share that is under 500,000. A program of two families is checked in the first's.
    """
    rows = []
    for family, sources in [*narrowed.groupby("family"), ("all", narrowed)]:
        checked = corpus[(corpus["status"] != "too long") & corpus["family"].isin(sources["family"])]
        runs, sound = checked["status"] == "ok", checked["status"].isin(("ok", "parameters"))
        rows.append({
            "family": family,
            "sources": len(sources),
            "programs": sources["program"].nunique(),
            "layers_before": sources["layer_calls_before"].median(),
            "layers_after": sources["layer_calls"].median(),
            "changed": (sources["layer_calls"] != sources["layer_calls_before"]).sum(),
            "checked": len(checked),
            "run": runs.mean(),
            "parameters": checked.loc[runs, "parameters"].astype(float).median(),
            "under_500k": runs[sound].mean(),
        })  # fmt: skip
    return pd.DataFrame(rows)


def parts(corpus: pd.DataFrame) -> pd.DataFrame:
    """Programs by family (rows, and all) and part (columns: train, best, reserved, then reasons, commonest first)."""
    counts = pd.crosstab(corpus["family"], corpus["part"])
    reasons = counts.drop(columns=[part for part in SOUND if part in counts]).sum().sort_values(ascending=False)
    counts = counts.reindex(columns=[*SOUND, *reasons.index], fill_value=0)
    counts.loc["all"] = counts.sum()
    counts.insert(0, "programs", counts.sum(axis=1))
    return counts.rename_axis(columns=None).rename_axis("family").reset_index()


def pieces(tokenizer, code: str) -> list[str]:
    """The text of each token of ``code``, in order."""
    return [tokenizer.decode([index]) for index in tokenizer(code)["input_ids"]]


def kind(piece: str) -> str:
    """What a token's text is: one of :data:`KINDS`."""
    if re.fullmatch(NUMBER, piece):
        return "number"
    if re.fullmatch(LAYER, piece):
        return "layer"
    if len(piece.strip()) <= 1:
        return "byte or special"
    return "start of a line" if piece.startswith("\n") else "piece of a line"


def vocabulary(tokenizer, codes: list[str]) -> pd.DataFrame:
    """The vocabulary by kind of token: entries, the share of all tokens of ``codes``, and the commonest in them."""
    texts = pd.Series([tokenizer.decode([index]) for index in range(len(tokenizer))])
    kinds = texts.map(kind).mask(texts.index.isin(tokenizer.all_special_ids), "byte or special")
    used = pd.Series([index for code in codes for index in tokenizer(code)["input_ids"]], dtype=int).value_counts()
    shown = texts[used.index].str.strip(" ").str.replace("\n", "↵")
    table = pd.DataFrame({
        "entries": kinds.value_counts(),
        "share_of_tokens": used.groupby(kinds).sum() / used.sum(),
        "commonest": shown.groupby(kinds).agg(lambda common: "  ".join(common.head(3))),
    }).reindex(KINDS)  # fmt: skip
    return table.fillna({"entries": 0, "share_of_tokens": 0.0, "commonest": ""}).rename_axis("kind").reset_index()


def lengths(tokenizer, corpus: pd.DataFrame) -> pd.DataFrame:
    """Tokens of each network of the training text and of what is held out: family, part, characters, tokens."""
    sound = corpus[corpus["part"].isin(SOUND)]
    tokens = [len(tokenizer(code)["input_ids"]) for code in sound["code"]]
    return sound[["family", "part", "characters"]].assign(tokens=tokens).reset_index(drop=True)


def lengths_table(table: pd.DataFrame) -> pd.DataFrame:
    """Of :func:`lengths` by family, and all: networks, median characters, quantiles of tokens, characters per token."""
    rows = []
    for family, part in [*table.groupby("family"), ("all", table)]:
        low, median, high = part["tokens"].quantile([0.1, 0.5, 0.9])
        share = part["characters"].sum() / part["tokens"].sum()
        rows.append((family, len(part), part["characters"].median(), low, median, high, share))
    columns = ["family", "networks", "characters", "tokens_p10", "tokens_median", "tokens_p90", "characters_per_token"]
    return pd.DataFrame(rows, columns=columns)


def losses_by_family(coder: Coder, text: TrainingText, corpus: pd.DataFrame) -> pd.DataFrame:
    """Nats per token by family (rows) and part (columns, each with its number of networks), on at most 100 networks of
    each, spread evenly over the corpus's order."""
    rows: dict[str, Any] = {}
    for part, whole in text.networks.items():
        families = corpus.loc[corpus["part"] == part, "family"].reset_index(drop=True)
        for family, group in families.groupby(families):
            chosen = [whole[group.index[place]] for place in spread(len(group), 100)]
            row = rows.setdefault(family, {"family": family})
            row |= {part: lora.mean_loss(coder, chosen, EVALUATION), f"{part}_networks": len(chosen)}
    columns = ["family", *(name for part in text.networks for name in (part, f"{part}_networks"))]
    table = pd.DataFrame([rows[family] for family in sorted(rows)], columns=columns)
    counts = [name for name in columns if name.endswith("networks")]
    return table.astype(dict.fromkeys(counts, "Int64")).fillna(dict.fromkeys(counts, 0))


def answers(tried: pd.DataFrame, corpus: pd.DataFrame) -> pd.DataFrame:
    """What became of the answers (``nano_coder.try_out``): how many, of how many, share with its Wilson interval."""
    codes = [extract(text, Kind.ARCHITECTURE).code for text in tried["text"]]
    programs = pd.Series([describe(code).nameless_hash for code in codes], index=tried.index)
    holds, trains = tried["contract"] == "ok", tried["status"] == "ok"
    learnt = programs.isin(corpus.loc[corpus["part"] == "train", "program"])
    held_out = programs.isin(corpus.loc[corpus["part"].isin(("best", "reserved")), "program"])
    questions = {
        "end before the length limit": (tried["finished"], len(tried)),
        "keep the contract (valid code)": (holds, len(tried)),
        "train for an epoch": (trains, len(tried)),
        "differ from the answers before": (trains & ~programs.duplicated(), trains.sum()),
        "equal a network learnt from, up to names": (trains & learnt, trains.sum()),
        "equal a held-out network, up to names": (trains & held_out, trains.sum()),
    }
    rows = []
    for question, (which, count) in questions.items():
        share = wilson(int(which.sum()), int(count))
        rows.append((question, which.sum(), share.n, share.value, share.low, share.high))
    return pd.DataFrame(rows, columns=["answers that", "answers", "of", "share", "low", "high"])


def statuses(tried: pd.DataFrame) -> pd.DataFrame:
    """The answers by status, with accuracy and size of those that have one."""
    table = tried.groupby("status").agg(
        answers=("status", "size"), tokens=("tokens", "median"), lowest=("score", "min"), median=("score", "median"),
        highest=("score", "max"), parameters=("parameters", "median"),
    )  # fmt: skip
    return table.sort_values("answers", ascending=False).reset_index()


def beside_shipped(facts: dict, shipped: dict) -> pd.DataFrame:
    """The numbers of this run's card and of the shipped weights' card, a row each: train, best and reserved are nats
    per token, valid is the share of answers that keep the contract."""
    rows = [
        {
            "weights": name,
            "parameters": card["parameters"],
            "vocabulary": card["architecture"]["vocabulary"],
            **card["documents"],
            "epochs": card["schedule"]["epochs"],
            "steps": card["steps"],
            **{part: card["losses"].get(part) for part in SOUND},
            "valid": card["answers"]["statuses"].get("ok", 0) / max(1, card["answers"]["count"]),
        }
        for name, card in {"this run": facts, "shipped": shipped}.items()
    ]
    return pd.DataFrame(rows)


def draw_tokens(pieces: Sequence[str], kinds: Sequence[str]) -> str:
    """A text as HTML, each token in a box: numbers orange, layers green, others in two alternating colours. A line
    break that begins a token is shown as a sign, so that it can be seen which line it belongs to."""
    spans = []
    for place, (piece, kind) in enumerate(zip(pieces, kinds, strict=True)):
        colour = TOKEN_COLOURS.get(kind, ALTERNATING[place % 2])
        text = html.escape(piece).replace("\n", "↵\n")
        style = f"background:{colour};color:#111;border-radius:2px;box-shadow:inset -1px 0 0 #fff"
        spans.append(f'<span style="{style}">{text}</span>')
    return f'<pre style="{FRAME}">{"".join(spans)}</pre>'


def draw_split(parts: pd.DataFrame) -> Figure:
    """Stacked bars of :func:`parts`: programs by family and part; reasons for leaving one out in greys."""
    rows = parts[parts["family"] != "all"].set_index("family").drop(columns="programs").iloc[::-1]
    greys = iter(REASON_COLOURS)
    looks = {name: {"label": name.replace("_", " "), "facecolor": SOUND_COLOURS.get(name) or next(greys, "black")}
             for name in rows.columns}  # fmt: skip
    figure, ax = new_figure(width=9, height=1 + 0.36 * len(rows))
    stack(ax, rows, looks)
    ax.set(xlabel="distinct programs", title="What becomes of LEMUR's networks")
    legend_right(figure)
    return figure


def draw_lengths(table: pd.DataFrame) -> Figure:
    """Histogram of tokens per network, families stacked (of :func:`lengths`)."""
    figure, ax = new_figure(width=8, height=3.2)
    order = list(table["family"].value_counts().index)
    clipped = table["tokens"].clip(upper=table["tokens"].quantile(0.99))
    groups = [clipped[table["family"] == family] for family in order]
    if groups:
        ax.hist(groups, bins=40, stacked=True, label=order, color=COLOURS[: len(order)])
        legend_right(figure)
    ax.set(xlabel="tokens per network (the longest hundredth at the right edge)", ylabel="networks")
    ax.set_title("How long a network is")
    return figure


def draw_curve(table: pd.DataFrame, reserved: float | None = None) -> Figure:
    """Loss and learning rate by step (``pretraining.pretrain``); ``reserved``: loss on held-out networks at the end."""
    figure, (ax, below) = new_figure(2, 1, width=8, height=4.6, sharex=True, height_ratios=(3, 1))
    smooth = table["loss"].ewm(span=min(50, max(2, len(table) // 4))).mean()
    ax.plot(table["step"], table["loss"], color=OURS, alpha=0.25, linewidth=0.8, label="each batch")
    ax.plot(table["step"], smooth, color=OURS, linewidth=2, label="moving average")
    if reserved is not None:
        ax.plot(table["step"].max(), reserved, "D", color=PAPER, label="reserved networks, at the end", clip_on=False)
    for step in table.loc[table["epoch"].diff() > 0, "step"]:
        for panel in (ax, below):
            panel.axvline(step, color=MUTED, linewidth=0.8, linestyle=":")
    ax.set(ylabel="nats per token", title="Pretraining (dotted: a new epoch)", ylim=(0, None))
    ax.legend()
    below.plot(table["step"], table["lr"], color=MUTED)
    below.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    return figure
