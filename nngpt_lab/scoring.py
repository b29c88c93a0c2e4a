"""A user's own networks and augmentations: are they sound, how good are they, and are they new?

What ``nngpt-lab score`` and ``nngpt-lab novelty`` do. Files are read; only the sandbox runs them.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from nngpt_lab.candidates.adapter import adapted, kind_of
from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.candidates.novelty import EACH_FORM, NoveltyIndex
from nngpt_lab.candidates.outcome import Candidate, Kind, Outcome
from nngpt_lab.candidates.pool import evaluate
from nngpt_lab.candidates.protocols import protocol_for
from nngpt_lab.candidates.proxy import prepare
from nngpt_lab.corpora import architectures, augmentations
from nngpt_lab.corpora.code import weight_loads
from nngpt_lab.ground import isolation
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.formatting import bracketed
from nngpt_lab.papers.architecture_loop.lab import known_index
from nngpt_lab.sandbox.parent import layers_here
from nngpt_lab.sandbox.status import Status
from nngpt_lab.statistics.intervals import t_interval

CORPORA = {Kind.ARCHITECTURE: "lemur", Kind.AUGMENTATION: "paper-a"}


@dataclass(frozen=True)
class Neighbour:
    """The nearest known source in one canonical form; ``duplicate`` if the form's published threshold is reached."""

    form: str
    nearest: str | None
    jaccard: float
    duplicate: bool


@dataclass
class Scored:
    """One file.

    Attributes:
        kind: ``architecture`` or ``augmentation``.
        status: of the first seed that failed, else ``ok``.
        message: why it failed.
        scores: holdout accuracies in [0, 1], a seed each; of the seeds that did not fail.
        mean, low, high: of the scores, with a 95 % interval over the seeds; None where there is none.
        parameters: weights of the network that was trained.
        adapted: whether the contract's methods were written by the lab.
        pretrained: calls that ask for weights learnt elsewhere; the sandbox has none to give.
        neighbours: the nearest known source in each form; empty if novelty was not asked.
    """

    file: str
    kind: str
    protocol: str
    status: str = Status.OK
    message: str = ""
    scores: list[float] = field(default_factory=list)
    mean: float | None = None
    low: float | None = None
    high: float | None = None
    parameters: int | None = None
    adapted: bool = False
    pretrained: list[str] = field(default_factory=list)
    neighbours: list[Neighbour] = field(default_factory=list)

    def lines(self) -> list[str]:
        head = f"{self.status}  {self.file}"
        if self.mean is not None:
            if self.low is None or self.high is None:
                score = f"{100 * self.mean:.1f} %, no interval"
            else:
                score = bracketed(100 * self.mean, 100 * self.low, 100 * self.high, " %")
            head += f"  {score} over {len(self.scores)} seed{'s' * (len(self.scores) != 1)}"
        head += f"  {self.parameters:,} parameters" if self.parameters is not None else ""
        lines = [head + f"  {self.protocol}" + "  contract written by the lab" * self.adapted]
        lines += [f"  {self.message}"] if self.message else []
        lines += [f"  asks for pretrained weights: {call}" for call in self.pretrained]
        return lines + [f"  {line}" for line in _told(self.neighbours)]


def python_files(place: str | Path) -> dict[str, str]:
    """The text of a Python file, or of every one below a folder, by its name as seen from there; in order. UsageError
    where there is none, or one cannot be read."""
    place = Path(place).expanduser()
    if not place.exists():
        raise UsageError(f"there is no {place}", "give a Python file or a folder of them")
    files = [place] if place.is_file() else sorted(path for path in place.rglob("*.py") if path.is_file())
    if not files:
        raise UsageError(f"there is no Python file below {place}", "give a folder that holds *.py files")
    try:
        names = [path.name if place.is_file() else path.relative_to(place).as_posix() for path in files]
        return {name: path.read_text(encoding="utf-8") for name, path in zip(names, files, strict=True)}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"a file of {place} cannot be read: {error}", "give Python source in UTF-8") from error


def score(
    sources: Mapping[str, str],
    protocol: str,
    seeds: Sequence[int],
    ledger: Path,
    *,
    net: str | None = None,
    device: str = "cpu",
    workers: int | None = None,
    novelty: bool = True,
) -> list[Scored]:
    """Check, train and score files (code by the file's name), each with every seed; what the ledger holds is not
    trained again.

    ``protocol``: a name of ``candidates/protocols.py``; candidates of the other kind are scored by its twin. ``net``:
    which class or function is the network, where a plain module has to be adapted. ``novelty``: also find the nearest
    published source in each form. UsageError: no such protocol or device; IsolationError: candidates cannot be confined
    here; DataError: the images or the published sources cannot be had.
    """
    kinds = {name: kind_of(code) for name, code in sources.items()}
    protocols = {kind: protocol_for(protocol, kind) for kind in dict.fromkeys(kinds.values())}
    isolation.require(layers_here())
    rows = {name: Scored(name, kind.value, protocols[kind].name) for name, kind in kinds.items()}
    codes = {}
    for name, row in rows.items():
        row.pretrained = weight_loads(sources[name])
        try:
            codes[name] = sources[name] if kinds[name] == Kind.AUGMENTATION else adapted(sources[name], net)
        except UsageError as error:
            row.status, row.message = Status.CONTRACT, f"{error.cause}: {error.cure}"
            continue
        row.adapted = codes[name] != sources[name]
    with Ledger(ledger) as book:
        for kind, chosen in protocols.items():
            candidates = {name: Candidate(code, code, kind) for name, code in codes.items() if kinds[name] == kind}
            if candidates:
                proxy = prepare(chosen, device=device)
                outcomes = evaluate(list(candidates.values()), proxy, book, seeds=seeds, workers=workers)
                for place, name in enumerate(candidates):
                    _fill(rows[name], outcomes[place * len(seeds) : (place + 1) * len(seeds)])
    for kind in protocols if novelty else ():
        own = {name: sources[name] for name in rows if kinds[name] == kind}
        for name, neighbours in nearest(own, published(kind)).items():
            rows[name].neighbours = neighbours
    return list(rows.values())


def _fill(row: Scored, outcomes: Sequence[Outcome]) -> None:
    """Write what came of a file's seeds into its row."""
    failed = [outcome for outcome in outcomes if outcome.score is None]
    row.scores = [outcome.score for outcome in outcomes if outcome.score is not None]
    row.parameters = next((each.parameters for each in outcomes if each.parameters is not None), None)
    if failed:
        row.status, row.message = failed[0].status, f"seed {failed[0].seed}: {failed[0].message}"
    if row.scores:
        estimate = t_interval(np.array(row.scores))
        row.mean = estimate.value
        if not np.isnan(estimate.low):
            bounded = estimate.within(0, 1)  # an accuracy cannot lie outside, though a t-interval can
            row.low, row.high = bounded.low, bounded.high


def published(kind: Kind) -> dict[str, NoveltyIndex]:
    """Indices of the published sources of a kind, by form; made on first use, which takes a minute or two for LEMUR."""
    table = architectures.load().architectures if kind == Kind.ARCHITECTURE else augmentations.load().brute_force
    known = table[["name", "code"]].drop_duplicates("name").sort_values("name")
    return {form: known_index(f"{CORPORA[kind]}-{form}", known, rule) for form, rule in EACH_FORM.items()}


def indices(sources: Mapping[str, str]) -> dict[str, NoveltyIndex]:
    """The same of any sources."""
    made = {form: NoveltyIndex(rule) for form, rule in EACH_FORM.items()}
    for index in made.values():
        index.add_many(sources, sources.values())
    return made


def nearest(sources: Mapping[str, str], known: Mapping[str, NoveltyIndex]) -> dict[str, list[Neighbour]]:
    """For each source the nearest known one in each form, by exact Jaccard index."""
    return {name: [_neighbour(form, index, code) for form, index in known.items()] for name, code in sources.items()}


def _neighbour(form: str, index: NoveltyIndex, code: str) -> Neighbour:
    match = index.nearest(code)
    return Neighbour(form, match.nearest, round(match.jaccard, 4), match.duplicate)


def novelty(sources: Mapping[str, str], known: Mapping[str, NoveltyIndex] | None) -> list[dict]:
    """Each file's nearest source of ``known`` (None: of what was published of its kind) by form, and the first file
    before it in the folder that it repeats there. A file that is ``no_code``, which says why, is compared with none."""
    wrong = {name: reason for name, code in sources.items() if (reason := _no_code(code))}
    kinds = {name: kind_of(code) for name, code in sources.items() if name not in wrong}
    against = {kind: known or published(kind) for kind in dict.fromkeys(kinds.values())}
    within = {form: NoveltyIndex(rule) for form, rule in EACH_FORM.items()}
    rows: list[dict] = []
    for name, code in sources.items():
        if name in wrong:
            rows.append({"file": name, "kind": "", "neighbours": [], "repeats": {}, "no_code": wrong[name]})
            continue
        found = nearest({name: code}, against[kinds[name]])[name]
        repeats: dict[str, str | None] = {}
        for form, index in within.items():
            match = index.check_and_add(name, code)
            repeats |= {form: match.nearest} if match.duplicate else {}
        row = {"file": name, "kind": kinds[name].value, "neighbours": found, "repeats": repeats}
        rows.append(row | {"no_code": ""})
    return rows


def _no_code(text: str) -> str:
    """Why a text is no Python that could be compared; empty if it is."""
    try:
        return "" if ast.parse(text).body else "it is empty"
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"it does not parse: {error}"


def novelty_lines(rows: Sequence[dict]) -> list[str]:
    """What ``nngpt-lab novelty`` prints: each file, then how many are new in each form."""
    lines = []
    for row in rows:
        lines += [row["file"], *(f"  {line}" for line in _told(row["neighbours"]))]
        lines += [f"  {form}: repeats {other} of this folder" for form, other in row["repeats"].items()]
        lines += [f"  left out: {row['no_code']}"] * bool(row["no_code"])
    rows = [row for row in rows if not row["no_code"]]
    for place, form in enumerate(EACH_FORM):
        new = sum(not row["neighbours"][place].duplicate and form not in row["repeats"] for row in rows)
        lines.append(f"new in {form} form: {new} of {len(rows)} (Jaccard below {EACH_FORM[form].jaccard_threshold})")
    return lines


def _told(neighbours: Sequence[Neighbour]) -> list[str]:
    return [
        f"{each.form}: Jaccard {each.jaccard:.2f} with {each.nearest}" + "  near copy" * each.duplicate
        for each in neighbours
    ]


def as_json(rows: Sequence[Scored | dict]) -> str:
    plain = [asdict(row) if isinstance(row, Scored) else row for row in rows]
    return json.dumps(plain, indent=1, default=asdict)
