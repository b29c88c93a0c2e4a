"""Every candidate and its outcome, once, durable: one SQLite file that only grows.

Tables: ``protocols``, ``codes`` (each text once), ``samples`` (every text a model wrote, per run and position, with its
static status), ``evaluations`` (one per code hash, protocol hash and seed: the first wins, so a score is never
computed twice) and ``dropped`` (evaluations that were taken out again). What these and the views for plain SQL hold
stands in ``ledger.sql``.

* Durable: a method that returned has its row on the disk, and ``kill -9`` at any instant leaves whole rows or none
  (write-ahead log, ``synchronous=FULL``). While a ledger is open its log is part of it: copy it with
  ``sqlite3 ledger.sqlite ".backup copy.sqlite"``, not with ``cp``.
* Append-only: triggers refuse every update, deletion and replacement, whoever tries. An evaluation that the machine
  decided, not the code, is moved to ``dropped`` by :meth:`Ledger.drop`, and its code can be evaluated anew.
* A ledger of an earlier version is migrated when it is opened, in one step, and loses nothing but what that version is
  known to have misfiled.
* Several processes on one machine may write to one ledger. SQLite's locks do not work across a network file system.
* A text that cannot be encoded (it holds lone surrogates, which no Python source may) is stored with them escaped as
  ``\\udXXX``; its code hash is computed from the text itself.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from nngpt_lab.candidates.outcome import Candidate, Outcome
from nngpt_lab.ground.errors import BusyError, DataError, LabError, UsageError
from nngpt_lab.records import manifest
from nngpt_lab.sandbox.status import Status

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

VERSION = 2  # of the tables; raise it with any change to ledger.sql
APPLICATION = 0x4E4E4C42  # "NNLB" in the file's header, so that another program's file is not taken for ours
BUSY_SECONDS = 60.0
MISFILED = """\
SELECT code_hash, protocol_hash, seed FROM evaluations JOIN protocols ON protocols.hash = protocol_hash
WHERE (status = 'crash' AND message IN ('the sandbox had to be replaced while it ran',
        'its supervisor was killed, perhaps for memory', 'killed by SIGKILL'))
    OR (status = 'timeout' AND total_seconds > 30 + json_extract(record, '$.wall_seconds'))
"""  # by version 1: killed by the machine, or the driver was stopped while the clock ran on
SCHEMA = Path(__file__).with_name("ledger.sql")
STATIC = (Status.OK, Status.NO_CODE, Status.SYNTAX, Status.CONTRACT, Status.DUPLICATE)
TABLES = {
    "protocols": "hash",
    "codes": "hash",
    "samples": "run, position",
    "evaluations": "protocol_hash, code_hash, seed",
    "dropped": "protocol_hash, code_hash, seed, finished",
}
ORDERS = TABLES | {
    "validity": "run",
    "sample_statuses": "run, status",
    "sample_outcomes": "run, position, protocol_hash, seed",
    "scores": "protocol_hash, code_hash",
    "best": "protocol_hash, rank, code_hash",
    "statuses": "protocol_hash, status",
    "times": "protocol_hash, status, stage",
}
INTEGERS = {"position", "sampling_seed", "seed", "parameters", "samples", "evaluations", "scored", "failed", "rank"}
INTEGERS |= {status.value for status in STATIC}
REALS = {"score", "mean", "sd", "lowest", "highest", "share", "valid_share", "kept_share", "total_seconds"}
REALS |= {"mean_seconds", "longest_seconds"}


class Ledger:
    """A ledger's file, created with its folder if there is none. Use as a context manager, from one thread. DataError:
    the file is damaged, not a ledger, or of a newer version; BusyError: another process keeps it locked."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        with self._told():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the log is merged into it. Can be called twice."""
        self._connection.close()

    # --- writing --------------------------------------------------------------------------------------------------

    def add_protocol(self, protocol_hash: str, record: Mapping[str, Any]) -> None:
        """File what a protocol hash stands for, as JSON. UsageError if it stands for something else already."""
        values = {"hash": protocol_hash, "record": json.dumps(record, sort_keys=True, default=str)}
        with self._told(), self._writing():
            if (filed := self._row("protocols", hash=protocol_hash)) is None:
                self._insert("protocols", values | {"added": _now()})
            elif filed["record"] != values["record"]:
                raise UsageError(
                    f"protocol {protocol_hash[:12]} stands for another record in {manifest.display(self.path)}",
                    "make the hash cover all that the record says, or use another ledger",
                )

    def add_sample(
        self, run: str, position: int, candidate: Candidate, inspection_status: Status, message: str, source: str = ""
    ) -> bool:
        """File a text that was drawn, whatever became of it; False if it is there already.

        Its key is ``run``, the series of draws, and ``position``, its place in it from 0. ``inspection_status`` is that
        before any evaluation: ok, no_code, syntax, contract or duplicate. ``message`` says why it was refused,
        ``source`` where in the text its code was found. UsageError: that place holds another text or status.
        """
        if inspection_status not in STATIC:
            raise UsageError(f"{inspection_status} is no status of an inspection", f"one of {', '.join(STATIC)}")
        sample = asdict(candidate) | {"run": run, "position": position, "source": source}
        sample |= {"code_hash": candidate.code_hash, "status": inspection_status.value}
        sample = {name: _storable(value) for name, value in sample.items()}
        code = sample.pop("code")
        with self._told(), self._writing():
            if filed := self._row("samples", run=sample["run"], position=position):
                if all(filed[name] == value for name, value in sample.items()):
                    return False
                raise UsageError(
                    f"run {run!r} has another text or status at position {position}",
                    "give each run a name of its own; it must change with prompts, model, seeds and checks",
                )
            self._add_code(sample["code_hash"], code)
            self._insert("samples", sample | {"message": _storable(message), "drawn": _now()})
            return True

    def add_outcome(self, candidate: Candidate, outcome: Outcome) -> bool:
        """File an evaluation; its protocol must be there. False if there is one already for its code, protocol and
        seed, which then stays as it is."""
        values = asdict(outcome) | {"code_hash": candidate.code_hash, "kind": candidate.kind.value}
        # What a child reports is its own word: JSON has no infinity and SQL no integer above 64 bits
        values["seconds"] = {name: time for name, time in outcome.seconds.items() if math.isfinite(time)}
        if outcome.parameters is not None and not 0 <= outcome.parameters < 2**63:
            values["parameters"] = None
        values["total_seconds"] = values["seconds"].get("total")
        values = {name: _storable(value) for name, value in values.items()}
        with self._told(), self._writing():
            if self._evaluation(values["code_hash"], outcome.protocol_hash, outcome.seed):
                return False
            if not self._row("protocols", hash=outcome.protocol_hash):
                raise UsageError(f"protocol {outcome.protocol_hash[:12]!r} is not in the ledger", "call add_protocol")
            self._add_code(values["code_hash"], _storable(candidate.code))
            self._insert("evaluations", values | {"finished": _now()})
            return True

    def drop(self, code_hash: str, protocol_hash: str, seed: int, reason: str) -> bool:
        """Take an evaluation out, whose end was the machine's doing; False if there is none. The row itself, and the
        reason, are kept in the table ``dropped``."""
        with self._told(), self._writing():
            return self._drop(code_hash, protocol_hash, seed, reason)

    def _drop(self, code_hash: str, protocol_hash: str, seed: int, reason: str) -> bool:
        row = self._evaluation(code_hash, protocol_hash, seed)
        if row is None:
            return False
        key = {name: row[name] for name in ("code_hash", "protocol_hash", "seed", "finished")}
        self._insert("dropped", key | {"evaluation": json.dumps(dict(row)), "reason": reason})
        where = " AND ".join(f"{name} = ?" for name in key)
        self._connection.execute(f"DELETE FROM evaluations WHERE {where}", [*key.values()])
        return True

    # --- reading --------------------------------------------------------------------------------------------------

    def outcome(self, code_hash: str, protocol_hash: str, seed: int) -> Outcome | None:
        """What came of evaluating a code under a protocol with a seed; None if that was not done."""
        with self._told():
            filed = self._evaluation(code_hash, protocol_hash, seed)
        if filed is None:
            return None
        values = {name: filed[name] for name in Outcome.__dataclass_fields__}
        values |= {"status": Status(values["status"]), "seconds": json.loads(values["seconds"])}
        return Outcome(**values | {"isolation": tuple(json.loads(values["isolation"]))})

    def known(self, protocol_hash: str) -> set[tuple[str, int]]:
        """Code hash and seed of every evaluation under a protocol."""
        query = "SELECT code_hash, seed FROM evaluations WHERE protocol_hash = ?"
        with self._told():
            return {(code_hash, seed) for code_hash, seed in self._connection.execute(query, [protocol_hash])}

    def texts(self, run: str) -> dict[int, str]:
        """The texts of a run by position, as they are stored."""
        query = "SELECT position, text FROM samples WHERE run = ? ORDER BY position"
        with self._told():
            return dict(self._connection.execute(query, [run]))

    def table(self, name: str) -> pd.DataFrame:
        """A table or view by name, in a fixed order; numbers that may be missing are ``Int64`` or ``float64``."""
        import pandas as pd

        if name not in ORDERS:
            raise UsageError(f"the ledger has no table {name!r}", f"one of {', '.join(ORDERS)}")
        with self._told():
            cursor = self._connection.execute(f"SELECT * FROM {name} ORDER BY {ORDERS[name]}")
            columns = [column[0] for column in cursor.description]
            rows = pd.DataFrame([tuple(row) for row in cursor], columns=columns, dtype=object)
        kinds = {column: "Int64" if column in INTEGERS else "string" for column in columns}
        return rows.astype(kinds | {column: "float64" for column in columns if column in REALS})

    # --- SQLite ---------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """Set the connection up; create the tables in an empty file, and refuse a file that is not ours."""
        connection = self._connection
        connection.row_factory = sqlite3.Row
        connection.create_function("sqrt", 1, lambda x: None if x is None else math.sqrt(x), deterministic=True)
        if _pragma(connection, "schema_version") == 0:
            self._begin_log()
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        if _pragma(connection, "application_id") != APPLICATION:
            with self._writing():  # under the lock, as another process may be creating it, too
                self._create()
        if _pragma(connection, "user_version") < VERSION:
            self._migrate()
        if (version := _pragma(connection, "user_version")) != VERSION:
            raise DataError(
                f"{manifest.display(self.path)} is a ledger of version {version}; this lab writes version {VERSION}",
                "update nngpt-lab, or let it begin a new ledger in another folder",
            )

    def _begin_log(self) -> None:
        """Switch a new file to the write-ahead log. It is the one thing for which SQLite does not wait its turn."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                mode = _pragma(self._connection, "journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        if mode != "wal":
            log.warning("%s: no write-ahead log on this file system; writing is safe but slower", self.path)

    def _create(self) -> None:
        """The tables, in a file that has none."""
        connection = self._connection
        if _pragma(connection, "application_id") == APPLICATION:
            return
        if _pragma(connection, "schema_version") != 0:
            raise DataError(
                f"{manifest.display(self.path)} is a data base, but not a ledger of the lab's",
                "name another file, or move this one away",
            )
        self._create_tables()
        connection.execute(f"PRAGMA application_id = {APPLICATION}")

    def _create_tables(self) -> None:
        statuses, static = (", ".join(f"'{status}'" for status in some) for some in (Status, STATIC))
        text = SCHEMA.read_text(encoding="utf-8").replace(":statuses", statuses).replace(":static", static)
        if sqlite3.sqlite_version_info < (3, 37):
            text = text.replace(") STRICT;", ");")
        for statement in text.split(";;"):  # not executescript, which would commit before it begins
            self._connection.execute(statement)
        self._connection.execute(f"PRAGMA user_version = {VERSION}")

    def _migrate(self) -> None:
        """Move the rows of an earlier version's tables into this one's, and drop what it is known to have misfiled."""
        connection = self._connection
        connection.execute("PRAGMA foreign_keys = OFF")  # heeded between transactions only
        try:
            with self._writing():
                if _pragma(connection, "user_version") == VERSION:  # another process was quicker
                    return
                made = connection.execute("SELECT type, name FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
                for kind in ("view", "trigger", "index"):
                    for name in [name for other, name in made if other == kind]:
                        connection.execute(f"DROP {kind} {name}")
                old = [name for kind, name in made if kind == "table" and name in TABLES]
                for name in old:
                    connection.execute(f"ALTER TABLE {name} RENAME TO old_{name}")
                self._create_tables()
                for name in old:
                    ours, theirs = (self._columns(table) for table in (name, f"old_{name}"))
                    shared = ", ".join(column for column in theirs if column in ours)
                    connection.execute(f"INSERT INTO {name} ({shared}) SELECT {shared} FROM old_{name}")
                for name in old:
                    connection.execute(f"DROP TABLE old_{name}")
                for code_hash, protocol_hash, seed in connection.execute(MISFILED).fetchall():
                    why = "an earlier version filed for the code what the machine had done"
                    self._drop(code_hash, protocol_hash, seed, why)
        finally:
            connection.execute("PRAGMA foreign_keys = ON")

    def _columns(self, table: str) -> list[str]:
        return [row["name"] for row in self._connection.execute(f"PRAGMA table_info({table})")]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """A transaction that holds the only right to write from its beginning, so that what it reads stays true."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except BaseException:  # an interrupt as well
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's errors as the lab's: cause and cure."""
        try:
            yield
        except (sqlite3.Error, OSError, OverflowError) as error:
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> LabError:
        place = manifest.display(self.path)
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return BusyError(f"another process keeps the ledger {place} locked", "wait until it has ended")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "Could not decode" in str(error):
            rescue = f"`sqlite3 {self.path.name} .recover | sqlite3 rescued.sqlite` saves what can be read"
            return DataError(f"the ledger {place} is damaged: {error}", f"move it away and run again; {rescue}")
        if isinstance(error, sqlite3.ProgrammingError) and "thread" in str(error):
            return UsageError(f"the ledger {place} was opened in another thread", "open it in the thread that uses it")
        if code in (sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOLFS):
            cure = "keep it on a local disk (--output), not on a network's, where locks do not work; copy it afterwards"
            return DataError(f"cannot use the ledger {place}: {error}", cure)
        if isinstance(error, OverflowError | sqlite3.IntegrityError | sqlite3.InterfaceError):
            return UsageError(f"the ledger {place} refuses a row: {error}", "see ledger.sql for what a row may hold")
        return DataError(f"cannot use the ledger {place}: {error}", "is there space, and may you write to its folder?")

    def _row(self, table: str, **values: Any) -> sqlite3.Row | None:
        where = " AND ".join(f"{name} = ?" for name in values)
        return self._connection.execute(f"SELECT * FROM {table} WHERE {where}", [*values.values()]).fetchone()

    def _evaluation(self, code_hash: str, protocol_hash: str, seed: int) -> sqlite3.Row | None:
        return self._row("evaluations", code_hash=code_hash, protocol_hash=protocol_hash, seed=int(seed))

    def _add_code(self, code_hash: str, code: str) -> None:
        if not self._row("codes", hash=code_hash):
            self._insert("codes", {"hash": code_hash, "code": code})

    def _insert(self, table: str, values: dict[str, Any]) -> None:
        marks = ", ".join("?" * len(values))
        self._connection.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", [*values.values()])


def isolation_in(file: Path) -> list[str] | None:
    """The layers that confined each candidate of a ledger's file, sorted; None if none was run or none can be read."""
    query = "SELECT DISTINCT isolation FROM evaluations WHERE isolation <> '[]'"
    try:
        with contextlib.closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            each = [set(json.loads(layers)) for (layers,) in connection.execute(query)]
    except (sqlite3.Error, ValueError):
        return None
    return sorted(set.intersection(*each)) if each else None


def _pragma(connection: sqlite3.Connection, text: str) -> Any:
    return connection.execute(f"PRAGMA {text}").fetchone()[0]


def _storable(value: Any) -> Any:
    """A value as SQLite takes it: containers as JSON, lone surrogates escaped, NumPy's numbers as Python's."""
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, sort_keys=True)
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value.item() if hasattr(value, "item") else value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
