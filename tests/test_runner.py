"""The runner, on tiny notebooks: what it refuses, what it leaves, what it repeats."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import papermill
import psutil
import pytest

from nngpt_lab import parameters, runner
from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import BusyError, UsageError
from nngpt_lab.records import manifest
from tests.helpers.waiting import LIMIT, wait_for

HEADER = 'profile = "smoke"\nseed = 0\noutput = ""\n'
LAB = [sys.executable, "-m", "nngpt_lab"]
WRITES_A_TABLE = """
from pathlib import Path
table = Path(output, "tables", "t.csv")
table.parent.mkdir(exist_ok=True)
table.write_text(f"{profile},{seed}")
"""


def write_notebook(path: Path, *cells: str, parameters: str = "", header: str = HEADER) -> Path:
    """A notebook with a parameters cell and the given code cells."""
    first = nbformat.v4.new_code_cell(header + parameters, metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[first, *map(nbformat.v4.new_code_cell, cells)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, path)
    return path


def run_notebook(notebook: Path, *arguments, **options) -> runner.RunOutcome:
    return runner.run_notebooks([notebook], *arguments, **options)[0]


def counting(counter: Path) -> str:
    """A cell that leaves one line for each time it is executed."""
    return f"with open({str(counter)!r}, 'a') as file: file.write('x\\n')"


def times(counter: Path) -> int:
    return len(counter.read_text().split()) if counter.exists() else 0


@pytest.fixture
def no_kernel(monkeypatch):
    """Fails the test if anything is executed."""

    def refuse(*args, **kwargs):
        raise AssertionError("a kernel was about to start")

    monkeypatch.setattr(papermill, "execute_notebook", refuse)


# --- refused before a kernel starts -----------------------------------------------------------------------------------


def refused(*notebooks: Path, output, **options) -> str:
    with pytest.raises(UsageError) as error:
        runner.run_notebooks(notebooks, output=output, **options)
    return str(error.value)


def test_a_path_that_is_there_is_one_from_where_the_command_was_typed(tmp_path, monkeypatch):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "loop").mkdir()
    (tmp_path / "a.gguf").touch()
    monkeypatch.chdir(tmp_path)
    text = parameters.Parameter(None, str, optional=True)
    assert parameters.convert("coder", "./models/mine", text) == str(tmp_path / "models" / "mine")
    assert parameters.convert("coder", "nano-coder,models/mine", text) == f"nano-coder,{tmp_path / 'models' / 'mine'}"
    assert parameters.convert("coder", "a.gguf", text) == str(tmp_path / "a.gguf")
    for name in (
        "b.gguf",
        "loop",
        "loop, no tuning",
        "models/other",
        "a/b",
    ):  # a name is no path, and what is not there stays
        assert parameters.convert("arms", name, text) == name


def test_unknown_parameter_names_the_nearest(tmp_path, no_kernel):
    notebook = write_notebook(tmp_path / "n.ipynb", parameters="epochs = 5\ntop = 3")
    said = refused(notebook, output=tmp_path / "out", parameters={"epoch": "3"})
    assert "n has no parameter 'epoch'" in said
    assert "did you mean 'epochs'?" in said
    assert "epochs, top" in said
    assert not (tmp_path / "out").exists()


def test_a_parameter_need_only_be_in_one_of_the_notebooks(tmp_path, no_kernel):
    one = write_notebook(tmp_path / "one.ipynb", parameters="epochs = 5")
    two = write_notebook(tmp_path / "two.ipynb", parameters="top = 3")
    jobs = runner.prepare([one, two], runner.get_profile("smoke"), 0, {"top": "7"}, tmp_path / "out")
    assert [job.parameters.get("top") for job in jobs] == [None, 7]
    assert "'topp'" in refused(one, two, output=tmp_path / "out", parameters={"topp": "7"})


def test_every_notebook_is_checked_before_the_first_starts(tmp_path, no_kernel):
    good = write_notebook(tmp_path / "good.ipynb")
    bad = write_notebook(tmp_path / "bad.ipynb", header="profile = 'smoke'")
    assert "bad.ipynb lacks seed, output" in refused(good, bad, output=tmp_path / "out")


def parameter(default) -> parameters.Parameter:
    """A parameter as the line ``x = default`` makes it."""
    return read(f"x = {default!r}")["x"]


def read(lines: str) -> dict[str, parameters.Parameter]:
    cell = nbformat.v4.new_code_cell(HEADER + lines, metadata={"tags": ["parameters"]})
    return parameters.read_parameters(nbformat.v4.new_notebook(cells=[cell]), "n.ipynb")


@pytest.mark.parametrize(
    ("default", "given", "expected"),
    [
        (5, "7", 7),
        (5, "-7", -7),
        (0.1, "1e-3", 0.001),
        (0.1, "2", 2.0),
        (True, "False", False),
        ("a", "7", "7"),
        ([1], "[2, 3]", [2, 3]),
        ((1,), "[2, 3]", (2, 3)),
        ({}, "{1: 'x'}", {1: "x"}),
        (None, "None", None),
        (None, "3", 3),
        (None, "plain text", "plain text"),
        (0.1, 3, 3.0),
    ],
)
def test_values_take_the_type_of_the_default(default, given, expected):
    value = parameters.convert("x", given, parameter(default))
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("default", "given", "kind"),
    [(5, "ten", "int"), (5, "1.5", "int"), (0.1, "fast", "float"), (0.1, "nan", "float"), (True, "1", "bool"),
     ([1], "3", "list"), ({}, "[1]", "dict"), (5, True, "int"), ("a", 3, "str"), ([1], "[1", "list")],
)  # fmt: skip
def test_a_wrong_type_is_refused_by_name_type_and_value(default, given, kind):
    with pytest.raises(UsageError) as error:
        parameters.convert("epochs", given, parameter(default))
    assert "'epochs'" in error.value.cause
    assert f"({kind})" in error.value.cause
    assert repr(given) in error.value.cause


ANNOTATED = {
    "int | None = None": {"7": 7, "0": 0, "none": None, "None": None, None: None, 7: 7},
    "int | None = 3": {"7": 7, "NONE": None},
    "None | float = None": {"2": 2.0, "1e-3": 0.001, 2: 2.0, "none": None},
    "float = 1": {"0.5": 0.5},
    "str | None = None": {"loop, no tuning": "loop, no tuning", "7": "7", "none": None},
    "bool | None = None": {"true": True, "none": None},
    "int = 3": {"7": 7},
}


@pytest.mark.parametrize("annotated", ANNOTATED)
def test_values_take_the_type_of_the_annotation(annotated):
    """``none``, in any case, is None where the annotation allows it; 0 is 0."""
    for given, expected in ANNOTATED[annotated].items():
        value = parameters.convert("x", given, read(f"x: {annotated}")["x"])
        assert value == expected and type(value) is type(expected), given


@pytest.mark.parametrize(
    ("annotated", "given", "message"),
    [
        ("int | None = None", "ten", "'x' takes a whole number (int), not 'ten'"),
        ("int | None = None", "1.5", "for example -p x 10, or -p x none"),
        ("int | None = None", True, "not True"),
        ("int = 3", "none", "for example -p x 3"),
        ("int = 3", None, "not None"),
        ("float | None = None", "nan", "'x' takes a number (float), not 'nan'"),
        ("bool | None = None", "maybe", "takes true or false"),
        ("str | None = None", 7, "takes a text (str), not 7"),
    ],
)
def test_what_an_annotation_does_not_allow_is_refused(annotated, given, message):
    with pytest.raises(UsageError) as error:
        parameters.convert("x", given, read(f"x: {annotated}")["x"])
    assert message in str(error.value)


def test_a_run_gets_none_as_the_command_line_writes_it(tmp_path, no_kernel):
    notebook = write_notebook(tmp_path / "n.ipynb", parameters="resamples: int | None = 5\narms: str | None = None")
    (job,) = runner.prepare([notebook], runner.get_profile("smoke"), 0, {"resamples": "none"}, tmp_path)
    assert (job.parameters["resamples"], job.parameters["arms"]) == (None, None)
    assert "-p resamples none" in job.again
    assert "not 'ten'" in refused(notebook, output=tmp_path / "out", parameters={"resamples": "ten"})


def test_a_wrong_type_starts_nothing(tmp_path, no_kernel):
    notebook = write_notebook(tmp_path / "n.ipynb", parameters="epochs = 5")
    assert "(int), not 'ten'" in refused(notebook, output=tmp_path / "out", parameters={"epochs": "ten"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profile": "dmeo"}, "did you mean 'demo'?"),
        ({"parameters": {"seed": "3"}}, "use --seed 3"),
        ({"parameters": {"anything": "3"}}, "no parameters of its own"),
    ],
)
def test_options_are_refused(tmp_path, no_kernel, options, message):
    assert message in refused(write_notebook(tmp_path / "n.ipynb"), output=tmp_path / "out", **options)


def test_a_profile_for_a_gpu_is_refused_without_one(tmp_path, no_kernel, monkeypatch):
    monkeypatch.setattr(manifest, "cuda_devices", list)
    notebook = write_notebook(tmp_path / "n.ipynb")
    assert "needs a CUDA device" in refused(notebook, output=tmp_path / "out", profile="gpu")
    monkeypatch.setattr(manifest, "cuda_devices", lambda: [{"name": "small", "memory_gib": 4.0}])
    assert "the largest here has 4.0 GiB" in refused(notebook, output=tmp_path / "out", profile="gpu")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("x = 1 + y", "more than plain values: x = 1 + y"),
        ("import os", "more than plain values: import os"),
        ("a = b = 1", "more than plain values"),
        ("x = (", "is not Python"),
        ("x: int", "more than plain values: x: int"),
        ("x: int = y", "more than plain values: x: int = y"),
        ("x: list = [1]", "gives 'x' the type list"),
        ("x: int | str = 1", "gives 'x' the type int | str"),
        ("x: None = None", "gives 'x' the type None"),
        ("x: int = None", "gives 'x' the type int and the value None"),
        ("x: int | None = 'a'", "gives 'x' the type int | None and the value 'a'"),
    ],
)
def test_a_parameters_cell_holds_literals_only(tmp_path, no_kernel, cell, message):
    assert message in refused(write_notebook(tmp_path / "n.ipynb", parameters=cell), output=tmp_path / "out")


def test_there_is_one_parameters_cell(tmp_path, no_kernel):
    notebook = write_notebook(tmp_path / "n.ipynb")
    content = nbformat.read(notebook, 4)
    again = nbformat.v4.new_code_cell("x = 1", metadata={"tags": ["parameters"]})
    for cells, message in (([], "no cell tagged"), ([*content.cells, again], "2 cells tagged")):
        content.cells = cells
        nbformat.write(content, notebook)
        assert message in refused(notebook, output=tmp_path / "out")


def test_what_is_no_notebook_is_refused(tmp_path, no_kernel):
    (tmp_path / "n.ipynb").write_text("{")
    assert "is not a Jupyter notebook" in refused(tmp_path / "n.ipynb", output=tmp_path / "out")
    assert "cannot read" in refused(tmp_path / "missing.ipynb", output=tmp_path / "out")


def test_two_notebooks_of_one_name_are_refused(tmp_path, no_kernel):
    (tmp_path / "other").mkdir()
    notebooks = write_notebook(tmp_path / "n.ipynb"), write_notebook(tmp_path / "other" / "n.ipynb")
    assert "share a results folder" in refused(*notebooks, output=tmp_path / "out")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, no_kernel):
    # Below a regular file, because permission bits do not stop root, and CI often is root.
    (tmp_path / "file").write_text("")
    said = refused(write_notebook(tmp_path / "n.ipynb"), output=tmp_path / "file" / "out")
    assert "cannot write to" in said
    assert "--output" in said


# --- what a run leaves ------------------------------------------------------------------------------------------------


def test_a_run_and_its_manifest(tmp_path, monkeypatch):
    """One run in an awkward folder, from another working directory, holds most of what a run promises."""
    folder = tmp_path / "a {b} %s c"
    folder.mkdir()
    monkeypatch.chdir("/")
    elsewhere = tmp_path / "jupyter" / "kernels" / "python3"  # a user's kernelspec of that name wins over everything
    elsewhere.mkdir(parents=True)
    other = {"argv": ["false", "{connection_file}"], "display_name": "another Python", "language": "python"}
    (elsewhere / "kernel.json").write_text(json.dumps(other))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    there_before, write = [], manifest.write

    def spy(place: Path, record: dict) -> None:
        there_before.extend(path.name for path in place.rglob("*"))
        write(place, record)

    monkeypatch.setattr(manifest, "write", spy)
    facts = "import os, sys, json; json.dump([os.getcwd(), sys.executable, os.environ['CUBLAS_WORKSPACE_CONFIG'], "
    notebook = write_notebook(
        folder / "01_x.ipynb",
        WRITES_A_TABLE,
        facts + "pair, {1: 2} | keyed, place], open(output + '/facts.json', 'w'))",
        parameters="pair = (1, 2)\nkeyed = {3: 4}\nplace = 'here'",
    )
    outcome = run_notebook(notebook, "demo", 7, {"place": str(tmp_path)}, output=folder / "out")

    place = outcome.job.folder
    assert place.parent == folder / "out" / "01_x" and place.name.startswith("seed-7-place-")
    assert outcome.lines() == [f"ok  01_x  {outcome.seconds:.1f} s  {str(place).removeprefix('/')}"]
    cwd, python, cublas, pair, keyed, given = json.loads((place / "facts.json").read_text())
    assert (cwd, python, cublas) == (str(folder), sys.executable, ":4096:8")
    assert (pair, keyed, given) == ([1, 2], {"1": 2, "3": 4}, str(tmp_path))
    assert (place / "tables" / "t.csv").read_text() == "demo,7"

    record = manifest.read(place)
    assert {"t.csv", "executed.ipynb", "facts.json"} <= set(there_before)
    assert "manifest.json" not in there_before  # written last
    assert set(record["outputs"]) == {"executed.ipynb", "facts.json", "tables/t.csv"}
    assert (record["status"], record["profile"], record["seed"], record["error"]) == ("ok", "demo", 7, None)
    assert record["warnings"] == []
    assert [cell["index"] for cell in record["cells"]] == [1, 2, 3, 4]
    assert {"commit", "dirty", "python", "platform", "device", "cores", "threads", "memory_gib"} <= set(record)
    assert {"torch", "papermill", "ipykernel"} <= set(record["packages"])
    assert all(len(digest) == 64 for digest in record["data"].values())
    text = (place / "manifest.json").read_text()
    for private in (str(tmp_path), str(Path.home()), sys.prefix):
        assert private not in text


def test_a_failed_notebook_is_kept_and_the_others_run(tmp_path):
    bad = write_notebook(tmp_path / "bad.ipynb", "1 + 1", "\nvalues = [1,\n 2]\nraise KeyError('it broke')", "'never'")
    dead = write_notebook(tmp_path / "dead.ipynb", "import os; os._exit(3)")
    good = write_notebook(tmp_path / "good.ipynb", "2 + 2")
    told = []
    outcomes = runner.run_notebooks([bad, dead, good], output=tmp_path / "out", on_done=told.append)
    assert [outcome.status for outcome in outcomes] == ["failed", "failed", "ok"]
    assert told == outcomes
    where, what, next_step = outcomes[0].lines()
    assert where.startswith("failed  bad  ")
    assert where.endswith("in cell [4]: values = [1,")
    assert what == "  KeyError: 'it broke'"
    assert "executed.ipynb" in next_step
    assert "nngpt-lab run" in next_step
    kept = nbformat.read(tmp_path / "out" / "bad" / "seed-0" / "executed.ipynb", 4)
    assert any(output.output_type == "error" for cell in kept.cells for output in cell.get("outputs", []))
    record = manifest.read(tmp_path / "out" / "bad" / "seed-0")
    assert (record["status"], record["error"]["type"], record["error"]["cell"]) == ("failed", "KeyError", 4)
    assert outcomes[1].error["type"] == "DeadKernelError"
    assert outcomes[1].error["line"] == "import os; os._exit(3)"


def test_a_figure_or_table_that_fails_does_not_end_its_notebook(tmp_path):
    """Whatever it raised, but for errors that the user has a cure for; any other cell ends it, as ever."""
    shows = "from types import SimpleNamespace\nresults = SimpleNamespace(figure=print, table=print)"
    cells = [shows, "results.figure(1 / 0, 'a', 'A.')", "done = 7", "results.table(missing)\nnever = 1", "print(done)"]
    outcome = run_notebook(write_notebook(tmp_path / "n.ipynb", *cells), output=tmp_path / "out")
    record = manifest.read(outcome.job.folder)
    assert outcome.status == record["status"] == "incomplete"
    assert outcome.lines()[0].startswith("incomplete  n  ") and "ZeroDivisionError" in outcome.lines()[1]
    assert [(failure["cell"], failure["type"]) for failure in record["failures"]] == [
        (4, "ZeroDivisionError"),
        (6, "NameError"),
    ]
    assert "7" in (outcome.job.folder / "executed.ipynb").read_text()
    assert not manifest.is_current(outcome.job.folder, record["fingerprint"])  # the same call mends it
    told = "from nngpt_lab.ground.errors import UsageError\nraise UsageError('a', 'b')\nresults.figure(1)"
    for last in (told, "raise KeyboardInterrupt\nresults.figure(1)", "1 / 0"):
        ends = write_notebook(tmp_path / "n.ipynb", *cells[:2], last, "open(output + '/went_on', 'w')")
        outcome = run_notebook(ends, output=tmp_path / "out")
        assert outcome.status == "failed" and not (outcome.job.folder / "went_on").exists()


def test_an_executed_notebook_run_again_takes_the_new_parameters_and_shows_no_folder_of_ours(tmp_path):
    home = "from pathlib import Path\nprint(Path.home(), 'EPOCHS', epochs, 'SEED', seed); 1 / 0"
    notebook = write_notebook(tmp_path / "n.ipynb", home, parameters="epochs = 5")
    first = run_notebook(notebook, parameters={"epochs": "3"}, output=tmp_path / "a")
    again = run_notebook(first.job.folder / "executed.ipynb", "smoke", 4, {"epochs": "7"}, output=tmp_path / "b")
    text = (again.job.folder / "executed.ipynb").read_text()
    assert "~ EPOCHS 7 SEED 4" in text and "EPOCHS 3" not in text
    assert text.count('"injected-parameters"') == 1 and text.count("papermill-error-cell-tag") == 2
    for private in (str(tmp_path), str(Path.home()), sys.prefix):
        assert private not in text, private


def test_a_wrong_value_after_a_good_run_costs_nothing(tmp_path):
    """Neither one that is refused, nor one that fails in the notebook; nor a change after which the same run fails."""
    notebook = write_notebook(tmp_path / "n.ipynb", WRITES_A_TABLE, "assert top < 9", parameters="top = 1")
    good = run_notebook(notebook, output=tmp_path / "out")
    assert "takes a whole number" in refused(notebook, output=tmp_path / "out", parameters={"top": "many"})
    assert run_notebook(notebook, output=tmp_path / "out", parameters={"top": "9"}).status == "failed"
    assert manifest.is_current(good.job.folder, manifest.read(good.job.folder)["fingerprint"])
    write_notebook(notebook, "1 / 0", parameters="top = 1")
    assert run_notebook(notebook, output=tmp_path / "out").job.folder == good.job.folder
    kept = (tmp_path / "out" / "n" / "latest").resolve()
    assert kept.name.startswith("seed-0-before-") and (kept / "tables" / "t.csv").read_text() == "smoke,0"
    assert not manifest.changed_files(kept, manifest.read(kept))


def test_a_disk_that_is_full_at_the_manifest_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest, "write", full)
    outcome = run_notebook(write_notebook(tmp_path / "n.ipynb", "1 + 1"), output=tmp_path / "out")
    assert outcome.status == "failed" and "No space left on device; make room" in outcome.lines()[1]


VALUES = [
    ("01_memorization_to_creativity", {"arms": "lop"}, "did you mean 'loop'"),
    ("01_memorization_to_creativity", {"coder": "nano-codr"}, "did you mean 'nano-coder'"),
    ("01_memorization_to_creativity", {"loop_seeds": "-1"}, "from 1 up, not -1"),
    ("01_memorization_to_creativity", {"device": "tpu"}, "no device 'tpu'"),
    ("02_brute_force_to_semantic_insight", {"live_arms": "lop"}, "did you mean 'loop'"),
    ("02_brute_force_to_semantic_insight", {"policy_seeds": "-1"}, "from 0 up, not -1"),
    ("02_brute_force_to_semantic_insight", {"replay": "ful"}, "did you mean 'full'"),
    ("03_code_to_prediction", {"prompts": "cde"}, "did you mean 'code'"),
    ("03_code_to_prediction", {"splits": "nosuch"}, "no split 'nosuch'"),
    ("ablations/loop_settings", {"axes": "ranks"}, "did you mean 'rank'"),
    ("ablations/network_prompts", {"prompts": "architecture_papers"}, "did you mean 'architecture_paper'"),
    ("walkthroughs/from_text_to_score", {"protocol": "nosuch"}, "no protocol 'nosuch'"),
    ("walkthroughs/from_text_to_score", {"augmentation_protocol": "nosuch"}, "no protocol 'nosuch'"),
    ("walkthroughs/from_text_to_score", {"minutes": "0"}, "above 0, not 0"),
]


@pytest.mark.parametrize(("notebook", "given", "message"), VALUES)
def test_the_lab_s_notebooks_get_no_value_that_their_tables_lack(notebook, given, message, tmp_path, no_kernel):
    path = paths.notebooks_folder() / f"{notebook}.ipynb"
    assert message in refused(path, output=tmp_path / "out", parameters=given)
    assert not (tmp_path / "out").exists()


def test_every_text_that_a_notebook_of_the_lab_s_takes_is_checked():
    for path in paths.notebooks_folder().rglob("*.ipynb"):
        taken = parameters.read_parameters(parameters.read_notebook(path), path.name)
        texts = {name for name, parameter in taken.items() if parameter.kind in (str, None)} - {*parameters.OWN_OPTIONS}
        assert texts <= set(parameters.TABLES), path
        numbers = {name for name, parameter in taken.items() if parameter.kind is int} - {"seed", "parameters"}
        assert numbers <= set(parameters.LEAST) | {"rank", "alpha", "texts"}, path


def test_cells_that_warn_are_recorded_and_told(tmp_path):
    """Warnings and anything else on stderr, without this machine's paths; told again when the run is up to date."""
    warns = f"warnings.warn_explicit('old name', FutureWarning, {sys.prefix!r} + '/x.py', 3)"
    warns = f"import warnings; print('fine')\n{warns}"
    logs = "import sys\nprint('\\n  a log line\\nand another', file=sys.stderr)"
    notebook = write_notebook(tmp_path / "n.ipynb", "1 + 1", warns, logs)
    outcome = run_notebook(notebook, output=tmp_path / "out")
    assert manifest.read(tmp_path / "out" / "n" / "seed-0")["warnings"] == [
        {"cell": 4, "line": "<python>/x.py:3: FutureWarning: old name"},
        {"cell": 5, "line": "a log line"},
    ]
    assert outcome.status == "ok" and outcome.lines()[0].endswith("warnings in cells 4, 5")
    again = run_notebook(notebook, output=tmp_path / "out")
    assert again.status == "up to date" and again.warned == (4, 5)


def test_plain_papermill_runs_the_same_notebook(tmp_path):
    typed = "resamples: int | None = None\nseeds: int | None = 3\narms: str | None = None"
    notebook = write_notebook(
        tmp_path / "n.ipynb", WRITES_A_TABLE, "table.write_text(f'{profile},{resamples},{seeds},{arms}')",
        parameters=typed,
    )  # fmt: skip
    command = [sys.executable, "-m", "papermill", "n.ipynb", "out.ipynb", "-p", "profile", "demo", "-p", "output", "."]
    command += ["-p", "resamples", "10", "-p", "seeds", "None"]  # papermill's own spelling
    subprocess.run(command, cwd=notebook.parent, check=True, capture_output=True, timeout=LIMIT)
    assert (tmp_path / "tables" / "t.csv").read_text() == "demo,10,None,None"


# --- what is repeated, and what is not --------------------------------------------------------------------------------


def test_only_what_changed_is_run_again(tmp_path):
    counter, out = tmp_path / "counter", tmp_path / "out"
    notebook = write_notebook(tmp_path / "n.ipynb", counting(counter), WRITES_A_TABLE, parameters="top = 1")

    def run(expected: str, **options) -> None:
        before = times(counter)
        outcome = run_notebook(notebook, output=out, **options)
        assert (outcome.status, times(counter) - before) == (expected, int(expected == "ok"))

    run("ok")
    run("up to date")
    place = out / "n" / "seed-0"
    (place / "executed.html").write_text("rendered by the report")
    run("up to date")
    run("ok", force=True)
    (place / "tables" / "t.csv").unlink()
    (place / "tables" / "stale.csv").write_text("of an earlier run")
    run("ok")
    assert not (place / "tables" / "stale.csv").exists()
    run("ok", seed=1)
    run("up to date")  # another seed is another run
    run("ok", seed=1, parameters={"top": "2"})
    write_notebook(notebook, counting(counter), WRITES_A_TABLE + "# edited", parameters="top = 1")
    run("ok", seed=1, parameters={"top": "2"})
    run("up to date", seed=1, parameters={"top": "2"})


def test_the_fingerprint_covers_code_and_data_but_not_place_and_outputs(tmp_path, monkeypatch):
    notebook = nbformat.read(write_notebook(tmp_path / "n.ipynb", "1"), 4)
    data = {"some": "data"}
    first = manifest.fingerprint(notebook, {"seed": 0, "output": "here"}, data)
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="saved in JupyterLab")]
    assert manifest.fingerprint(notebook, {"seed": 0, "output": "there"}, data) == first
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "code_sha256", lambda: "other code")
        assert manifest.fingerprint(notebook, {"seed": 0}, data) != first
    assert manifest.fingerprint(notebook, {"seed": 0}, {"other": "data"}) != first


@pytest.mark.parametrize("text", ["", "{", "[]", '{"status": "ok"}'])
def test_a_damaged_manifest_counts_as_none(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    assert not manifest.is_current(tmp_path, "anything")


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_a_kernel_that_ends_before_it_begins_is_started_once_more(tmp_path, monkeypatch):
    """As one does whose port was taken meanwhile; what ends a second time is an error."""
    python = f"exec {sys.executable} -m ipykernel_launcher -f {{connection_file}}"
    counter = tmp_path / "starts"
    for ends, status in (1, "ok"), (2, "failed"):
        shell = f"echo x >> {counter}; if [ $(wc -l < {counter}) -gt {ends} ]; then {python}; fi"
        monkeypatch.setattr("ipykernel.kernelspec.get_kernel_dict", lambda shell=shell: {"argv": ["sh", "-c", shell]})
        outcome = run_notebook(write_notebook(tmp_path / "x.ipynb", "1 + 1"), output=tmp_path / status)
        assert (outcome.status, times(counter)) == (status, 2)
        counter.unlink()
    assert "before replying" in outcome.error["message"]


def test_interrupted_busy_and_continued(tmp_path):
    """Ctrl-C in mid-notebook leaves no manifest and no kernel; meanwhile a second run is refused; a third continues."""
    counter, begun, go_on = tmp_path / "counter", tmp_path / "begun", tmp_path / "go_on"
    first = write_notebook(tmp_path / "first.ipynb", counting(counter))
    waits = f"import os, pathlib, time\npathlib.Path({str(begun)!r}).write_text(str(os.getpid()))\n"
    waits += f"while not pathlib.Path({str(go_on)!r}).exists(): time.sleep(0.05)"
    second = write_notebook(tmp_path / "second.ipynb", "1 + 1", waits)
    command = [*LAB, "run", str(first), str(second), "--output", str(tmp_path / "out")]

    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: begun.exists() and begun.read_text())
        with pytest.raises(BusyError) as error:  # even the notebook that has already run: its call is not over
            run_notebook(first, output=tmp_path / "out")
        assert f"process {running.pid} on " in error.value.cause
        busy = subprocess.run([*command[:4], str(second), *command[-2:]], capture_output=True, text=True, timeout=LIMIT)
        assert (busy.returncode, times(counter)) == (4, 1)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=LIMIT)
    finally:
        running.kill()
    assert running.returncode == 130
    assert said == "interrupted: nothing that was finished is lost; the same command continues\n"
    wait_for(lambda: not psutil.pid_exists(int(begun.read_text())))
    assert (tmp_path / "out" / "second" / "seed-0" / "executed.ipynb").exists()
    assert not (tmp_path / "out" / "second" / "seed-0" / "manifest.json").exists()

    go_on.touch()
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0
    assert "first  up to date" in done.stdout
    assert times(counter) == 1
    assert manifest.read(tmp_path / "out" / "second" / "seed-0")["status"] == "ok"


def test_time_up_stops_what_runs_and_the_same_call_goes_on(tmp_path, monkeypatch):
    """The cell that runs is interrupted, later notebooks are not begun, no manifest vouches for half a run."""
    counter, begun, go_on = tmp_path / "counter", tmp_path / "begun", tmp_path / "go_on"
    clock = SimpleNamespace(monotonic=lambda: 1e9 * begun.exists(), perf_counter=lambda: 0.0)
    monkeypatch.setattr(runner, "time", clock)
    monkeypatch.setattr(runner, "AGAIN_SECONDS", 0.2)
    waits = "import pathlib, time\nfrom nngpt_lab.ground import progress\nprogress.note('runs', 3, 8)\n"
    waits += f"pathlib.Path({str(begun)!r}).touch()\n"
    waits += f"while not pathlib.Path({str(go_on)!r}).exists(): time.sleep(0.05)"
    first = write_notebook(tmp_path / "first.ipynb", counting(counter))
    second = write_notebook(tmp_path / "second.ipynb", waits, "1 + 1")
    third = write_notebook(tmp_path / "third.ipynb", "1 + 1")
    call = [first, second, third]
    done = runner.run_notebooks(call, output=tmp_path / "out", minutes=1e-3)
    assert [outcome.status for outcome in done] == ["ok", "stopped", "stopped"]
    assert [outcome.left for outcome in done] == ["", "cell 3 of 4, runs: 3 of 8", "not begun"]
    assert "go on: nngpt-lab run" in done[1].lines()[1]
    assert not (tmp_path / "out" / "second" / "seed-0" / "manifest.json").exists()

    (tmp_path / "out").rename(tmp_path / "moved")
    go_on.touch()
    again = runner.run_notebooks(call, output=tmp_path / "moved")
    assert [outcome.status for outcome in again] == ["up to date", "ok", "ok"]
    assert times(counter) == 1


def test_what_a_run_reads_of_the_users_own_counts(tmp_path):
    """A changed prompt file or model is another run's: the earlier one is not up to date."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"1")
    (tmp_path / "p.txt").write_text("a")
    given = {"prompt": str(tmp_path / "p.txt"), "coder": f"nano-coder,{tmp_path / 'model'}", "output": str(tmp_path)}
    before = parameters.also_read(given, tmp_path)
    assert list(before) == ["prompt p.txt", "coder model (sizes and times)"]
    (tmp_path / "p.txt").write_text("b")
    (tmp_path / "model" / "weights").write_bytes(b"12")
    after = parameters.also_read(given, tmp_path)
    assert before.keys() == after.keys()
    assert not {before[key] == after[key] for key in before} & {True}


def test_a_run_with_a_changed_prompt_file_is_made_anew(tmp_path):
    (tmp_path / "p.txt").write_text("a")
    notebook, counter = tmp_path / "n.ipynb", tmp_path / "counter"
    write_notebook(notebook, counting(counter), parameters="prompt: str | None = None")
    again = {"parameters": {"prompt": str(tmp_path / "p.txt")}, "output": tmp_path / "out"}
    assert [run_notebook(notebook, **again).status for _ in range(2)] == ["ok", "up to date"]
    (tmp_path / "p.txt").write_text("b")
    assert run_notebook(notebook, **again).status == "ok"
    assert times(counter) == 2
