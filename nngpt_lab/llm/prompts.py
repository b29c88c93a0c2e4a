"""Prompts as text files, and how a prompt becomes tokens.

Each prompt is one file in ``prompts/``. Lines that start with ``#:`` are about the prompt and never part of it:

    #: source: where the text comes from                    (several lines are joined)
    #: fields: dataset, side                                what is written $dataset, $side or ${side} in the text
    #: choose 2 tricks: ema | mixup | dropout               a field that is drawn: see Prompt.draw
    #: system                                               the system message follows
    #: user                                                 the user message follows
    #: user as in architecture_authors                      the user message of another prompt, word for word

Only declared fields are replaced, all at once: braces, dollar signs and the values themselves pass through untouched.

Where the papers' text is known, ``<task>`` is what the papers sent (the user message alone, unless the file says
otherwise) and ``<task>_<variant>`` stands beside it. The tokenizer's own chat template does the rest.
"""

from __future__ import annotations

import contextlib
import functools
import numbers
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.hashing import sha256_json
from nngpt_lab.ground.names import did_you_mean, named

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

FOLDERS = sorted(paths.PACKAGE.glob("papers/*/prompts"))  # beside the paper that asks them
MARK = "#:"
FIELD = re.compile(r"\$(?:([a-z_]\w*)|\{([a-z_]\w*)\})")
ANSWER, SYSTEM, USER = "\ue000", "\ue001", "\ue002"  # private-use characters: in no prompt, in no template
THOUGHT, THOUGHT_END = "<think>", "</think>"  # some reasoning models' templates open a thought for the model


@dataclass(frozen=True)
class Prompt:
    """A prompt with named fields.

    Attributes:
        name: of its file.
        system, user: the messages, fields still unfilled; ``system`` is None where there is none.
        fields: names that ``messages`` must be given, no more and no fewer.
        choices: field -> how many to draw, and from what.
        source: where the text comes from.
    """

    name: str
    system: str | None
    user: str
    fields: frozenset[str]
    choices: Mapping[str, tuple[int, tuple[str, ...]]]
    source: str

    @property
    def sha256(self) -> str:
        """Hash of what a model may get to see; what the file says about the prompt is left out."""
        choices = {field: [count, *options] for field, (count, options) in self.choices.items()}
        return sha256_json([self.system, self.user, choices])

    def messages(self, **values: str | float) -> list[dict[str, str]]:
        """The filled-in messages, ``[{"role": ..., "content": ...}]``; numbers are written as ``str`` writes them.
        UsageError if a field is missing, unknown, or neither text nor a number."""
        missing, unknown = sorted(self.fields - values.keys()), sorted(values.keys() - self.fields)
        if missing or unknown:
            said = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has no {', '.join(unknown)}"] * bool(unknown)
            cure = f"its fields are {', '.join(sorted(self.fields)) or '(none)'}"
            raise UsageError(f"prompt {self.name!r} {' and '.join(said)}", cure)
        for field, value in values.items():
            if isinstance(value, bool) or not isinstance(value, str | numbers.Real):
                cause = f"prompt {self.name!r}: field {field} is a {type(value).__name__}"
                raise UsageError(cause, "give text or a number")
        parts = {"system": self.system, "user": self.user}
        return [{"role": role, "content": _fill(text, values)} for role, text in parts.items() if text is not None]

    def filled(self, values: Mapping[str, str | float]) -> list[dict[str, str]]:
        """The :meth:`messages` from those of ``values`` for which the prompt has a field."""
        return self.messages(**{field: values[field] for field in self.fields & values.keys()})

    def draw(self, rng: np.random.Generator) -> dict[str, str]:
        """Values of the fields that the file lets vary: without replacement, sorted, joined with commas. The papers'
        prompts differ from candidate to candidate only in these and in the limit on parameters."""
        return {
            field: ", ".join(sorted(rng.choice(options, size=count, replace=False).tolist()))
            for field, (count, options) in sorted(self.choices.items())
        }


@functools.cache
def prompt(name: str) -> Prompt:
    """The prompt of that name, or of a user's own text file; a UsageError if there is none, or the file is not one."""
    if not is_file(name):
        try:
            file = named("prompt", name, files())
        except UsageError as error:
            raise UsageError(error.cause, f"{error.cure}, or a text file of your own: my_prompt.txt") from error
        return _parse(name, file.read_text(encoding="utf-8"))
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(f"the prompt {name} cannot be read: {why}", "give the path of a text file") from error
    try:
        return _parse(Path(name).stem, text)
    except ValueError as error:
        cure = "see `A prompt` in CONTRIBUTING: a line `#: fields: dataset` names what $dataset stands for"
        raise UsageError(f"the prompt {Path(name).name} cannot be used: {error}", cure) from error


def is_file(name: str) -> bool:
    """Whether a prompt is named by a path to a text file of the user's."""
    return name.endswith(".txt")


def identity(name: str) -> str:
    """What says which prompt it is, from run to run: its name, or for a user's file what a model gets to see of it."""
    return prompt(name).sha256 if is_file(name) else name


def check_fields(name: str, filled: Iterable[str]) -> None:
    """UsageError if a prompt has a field that is not filled there. What a file draws itself it fills itself."""
    asked, known = prompt(name), sorted(filled)
    if unknown := sorted(asked.fields - set(known) - asked.choices.keys()):
        raise UsageError(
            f"the prompt {asked.name!r} has the field {unknown[0]!r}, which this loop does not fill",
            f"{did_you_mean(unknown[0], known)}it fills {', '.join(known)}",
        )


def files() -> dict[str, Path]:
    return {path.stem: path for folder in FOLDERS for path in sorted(folder.glob("*.txt"))}


def _parse(name: str, text: str) -> Prompt:
    parts: dict[str, list[str]] = {}
    source, fields = [], set()
    choices: dict[str, tuple[int, tuple[str, ...]]] = {}
    part: str | None = None
    for line in text.splitlines():
        if not line.startswith(MARK):
            if part is not None:
                parts[part].append(line)
            continue
        key, _, value = (piece.strip() for piece in line.removeprefix(MARK).partition(":"))
        match key.split():
            case ["system" | "user" as role]:
                part, parts[role] = role, []
            case ["user", "as", "in", other]:
                parts["user"] = [prompt(other).user]
                choices |= prompt(other).choices
                part = None
            case ["source"]:
                source.append(value)
            case ["fields"]:
                fields |= set(re.findall(r"\w+", value))
            case ["choose", count, field]:
                choices[field] = int(count), tuple(option.strip() for option in value.split("|"))
            case _:
                raise ValueError(f"what does {line!r} mean?")
    system, user = ("\n".join(parts[role]).strip("\n") if role in parts else None for role in ("system", "user"))
    written = {plain or braced for plain, braced in FIELD.findall(f"{system}\n{user}")}
    if not user:
        raise ValueError("no text stands below a line `#: user`")
    if odd := sorted((fields | choices.keys()) ^ written):
        raise ValueError(
            f"it uses ${odd[0]} and does not declare it" if odd[0] in written else f"its text has no ${odd[0]}"
        )
    return Prompt(name, system, user, frozenset(fields | choices.keys()), choices, " ".join(source))


def _fill(text: str, values: Mapping[str, Any]) -> str:
    return FIELD.sub(lambda field: str(values[field[1] or field[2]]), text)


# ------------------------------------------------------------------------------------------------------------- tokens


def encode(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> list[int]:
    """Token ids of a prompt, up to where the model's answer begins. The template writes the special tokens, so the
    tokenizer adds none. Where a template refuses or forgets a system message (Mistral and Gemma do), its text goes
    before the user's. UsageError if there is no chat template, or it refuses the messages."""
    return _ids(tokenizer, _render(tokenizer, _without_refused_system(tokenizer, messages), True))


def encode_pair(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], response: str
) -> tuple[list[int], int]:
    """Token ids of a training text, and how many of them are the prompt: no loss before that position.

    The prompt's ids are exactly those of :func:`encode`, what the model is given when it is asked. Then come what the
    template writes before an answer (DeepSeek's line break), the response as it is, and what ends a turn, up to and
    including the first special token; what follows that is the next turn's affair.

    Prompt and response are tokenised together, as pre-training saw text, unless a token would span the boundary or the
    response spells a special token: then apart, and such spelling stays ordinary text. A template that opens a thought
    for the model (OlympicCoder's) has it closed at once, unless the response closes one: the papers' answers hold none.

    Raises:
        UsageError: no chat template, or one whose prompt is not how its full text begins.
    """
    messages = _without_refused_system(tokenizer, messages)
    question, before, after = _frame(tokenizer, messages)
    if response.startswith(before) or (THOUGHT_END in before and THOUGHT_END in response):  # it has this already
        before = ""
    special = _special_ids(tokenizer)
    question_ids, whole = _ids(tokenizer, question), _ids(tokenizer, question + before + response)
    length = len(question_ids)
    if whole[:length] != question_ids or special.intersection(_ids(tokenizer, response)):
        whole = question_ids + _ids(tokenizer, before) + _ids(tokenizer, response, split_special_tokens=True)
    return whole + _end_of_turn(tokenizer, after, special), length


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token with which :func:`encode_pair` ends every training text; None where it cannot make any."""
    with contextlib.suppress(UsageError):
        return encode_pair(tokenizer, [{"role": "user", "content": USER}], ANSWER)[0][-1]
    return None


def _frame(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> tuple[str, str, str]:
    """The prompt's text; what the template writes between it and an answer; what it writes after the answer."""
    question = _render(tokenizer, messages, True)
    full = _render(tokenizer, [*messages, {"role": "assistant", "content": ANSWER}], False)
    if full.startswith(question):
        before, _, after = full[len(question) :].partition(ANSWER)
        return question, before, after
    begun, _, opened = question.rpartition(THOUGHT)
    if begun and not opened.strip() and full.startswith(begun):
        return question, f"\n{THOUGHT_END}\n\n", full[len(begun) :].partition(ANSWER)[2]
    raise UsageError(
        f"the chat template of {_name(tokenizer)} writes a prompt that is not how its full text begins",
        "training on it would teach what sampling never sees; set another tokenizer.chat_template",
    )


def _without_refused_system(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """The messages, with the system's text before the first user's where the template has no place for it."""
    if messages[0]["role"] != "system":
        return messages
    probe = {"system": SYSTEM, "user": USER, "assistant": ANSWER}
    with contextlib.suppress(UsageError):
        if SYSTEM in _render(tokenizer, [{"role": role, "content": mark} for role, mark in probe.items()], False):
            return messages
    system, user, *rest = messages
    return [user | {"content": f"{system['content']}\n\n{user['content']}"}, *rest]


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], ask: bool) -> str:
    import jinja2

    if not tokenizer.chat_template:
        cure = "use a model tuned to follow instructions, or set tokenizer.chat_template"
        raise UsageError(f"{_name(tokenizer)} has no chat template", cure)
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask)
    except jinja2.TemplateError as error:
        cause = f"the chat template of {_name(tokenizer)} refuses the messages: {error}"
        raise UsageError(cause, "use a prompt of the form that the model was tuned for") from error


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, **options: bool) -> list[int]:
    return tokenizer(text, add_special_tokens=False, **options)["input_ids"]


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    added = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def _end_of_turn(tokenizer: PreTrainedTokenizerBase, after: str, special: set[int]) -> list[int]:
    """What ends an answer, up to the first special token; the tokenizer's end token if the template writes none."""
    ids = _ids(tokenizer, after)
    for position, index in enumerate(ids):
        if index in special:
            return ids[: position + 1]
    if tokenizer.eos_token_id is None:
        raise UsageError(
            f"nothing tells {_name(tokenizer)} that an answer is over: neither its template nor an end token",
            "set tokenizer.eos_token",
        )
    return [tokenizer.eos_token_id]


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return f"the tokenizer {tokenizer.name_or_path!r}" if tokenizer.name_or_path else "the tokenizer"
