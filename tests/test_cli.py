"""The command line: exit codes, what it says, and that the verbs reach what they promise."""

import contextlib
import errno
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner, Result

from nngpt_lab import cli, doctor, report, runner
from nngpt_lab.corpora import architectures, artifacts, augmentations
from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import DataError
from nngpt_lab.records import manifest
from tests.helpers.tiny_notebooks import counting, times, write_notebook
from tests.records.test_run_folders import leave


def lab(*arguments: object) -> Result:
    """Run ``nngpt-lab`` with these arguments in this process."""
    return CliRunner().invoke(cli.cli, [str(argument) for argument in arguments], prog_name="nngpt-lab")


@pytest.fixture
def own_notebooks(tmp_path, monkeypatch) -> Path:
    """An empty notebooks folder in place of the lab's."""
    folder = tmp_path / "notebooks"
    (folder / "ablations").mkdir(parents=True)
    monkeypatch.setattr(paths, "notebooks_folder", lambda: folder)
    return folder


@pytest.fixture
def published(monkeypatch) -> SimpleNamespace:
    """Data that are already there, a report that is only noted, and an account of what was asked for."""
    asked = SimpleNamespace(fetched=[], compiled=[], reported=[])
    monkeypatch.setattr(artifacts, "fetch", lambda item: asked.fetched.append(item.name))
    monkeypatch.setattr(artifacts, "is_present", lambda artifact: True)
    for table in (architectures, augmentations):
        monkeypatch.setattr(table, "load", lambda name=table.__name__: asked.compiled.append(name.split(".")[-1]))
    monkeypatch.setattr(
        report, "build_report", lambda folder: asked.reported.append(folder) or Path(folder, "index.html")
    )
    return asked


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise DataError("nn-dataset cannot be fetched: there is no network", "connect, or copy the file into the cache")

    monkeypatch.setattr(artifacts, "fetch", refuse)
    monkeypatch.setattr(artifacts, "is_present", lambda artifact: False)


# --- bad input and errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "No such command 'rnu'"),
        (["run"], "Missing argument"),
        (["run", "01_memory"], "did you mean '01_memorization'?"),
        (["run", "0"], "could be any of 01_memorization, 02_insight"),
        (["run", "01", "--profile", "dmeo"], "did you mean 'demo'?"),
        (["run", "01", "--seed", "-1"], "--seed"),
        (["run", "01", "-p", "topp", "3"], "did you mean 'top'?"),
        (["run", "01", "-p", "top", "many"], "takes a whole number (int), not 'many'"),
        (["report", "--profile", "dmeo"], "did you mean 'demo'?"),
        (["fetch", "nn-datset"], "did you mean 'nn-dataset'?"),
    ],
)
def test_bad_input_exits_with_2_and_says_what_to_do(own_notebooks, published, arguments, message):
    write_notebook(own_notebooks / "01_memorization.ipynb", parameters="top = 1")
    write_notebook(own_notebooks / "02_insight.ipynb")
    result = lab(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_an_error_is_two_lines_and_debug_adds_the_traceback(own_notebooks):
    plain = lab("run", "nothing")
    assert len(plain.stderr.splitlines()) == 2
    assert plain.stderr.splitlines()[1].startswith("  cure: ")
    assert "Traceback" in lab("--debug", "run", "nothing").stderr


def test_a_results_folder_that_cannot_be_written(own_notebooks, published, tmp_path):
    write_notebook(own_notebooks / "01_x.ipynb")
    (tmp_path / "file").write_text("")
    for verb in (["run", "01"], ["demo"]):
        result = lab(*verb, "--output", tmp_path / "file" / "out")
        assert result.exit_code == 2
        assert "cannot write to" in result.stderr
    assert published.fetched == []  # refused before 100 MB are fetched


@pytest.mark.parametrize("verb", [["fetch"], ["demo"]])
def test_missing_data_without_a_network_exits_with_3(own_notebooks, no_network, tmp_path, monkeypatch, verb):
    write_notebook(own_notebooks / "01_x.ipynb")
    monkeypatch.setattr(doctor, "free_gib", lambda folder: 100.0)
    monkeypatch.setattr(paths, "results_root", lambda: tmp_path / "results")
    result = lab(*verb)
    assert result.exit_code == 3
    assert result.stderr.splitlines() == [
        "error: nn-dataset cannot be fetched: there is no network",
        "  cure: connect, or copy the file into the cache",
    ]


def test_a_cache_that_cannot_be_made_exits_with_3(own_notebooks, tmp_path, monkeypatch):
    """As in a home folder that is read-only."""
    write_notebook(own_notebooks / "01_x.ipynb")
    (tmp_path / "file").touch()
    monkeypatch.setenv("NNGPT_LAB_CACHE", str(tmp_path / "file" / "cache"))
    result = lab("demo", "--output", tmp_path / "out")
    assert result.exit_code == 3 and "NNGPT_LAB_CACHE" in result.stderr.splitlines()[1]


FAILED = [SimpleNamespace(status="failed", error={"type": kind}) for kind in ("DataError", "ValueError")]
DONE, STOPPED = (SimpleNamespace(status=status, error=None) for status in ("ok", "stopped"))


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [([FAILED[0], DONE], 3), ([*FAILED, STOPPED], 1), ([DONE, STOPPED], 75), ([DONE], None)],
)
def test_want_of_data_failures_and_time_that_was_up_have_exit_codes_of_their_own(outcomes, code):
    with contextlib.nullcontext() if code is None else pytest.raises(SystemExit) as stopped:
        cli.stop_if_failed(outcomes)
    assert code is None or stopped.value.code == code


def test_too_little_disk_is_said_before_the_fetch(own_notebooks, no_network, tmp_path, monkeypatch):
    write_notebook(own_notebooks / "01_x.ipynb")
    monkeypatch.setattr(doctor, "free_gib", lambda folder: 0.5)
    result = lab("demo", "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "needs 2 GiB" in result.stderr
    assert "NNGPT_LAB_CACHE" in result.stderr


# --- notebooks by name ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["1", "01", "01_mem", "01_memorization", "01_memorization.ipynb", "notebooks/01_memorization.ipynb"],
)
def test_a_notebook_by_name(own_notebooks, monkeypatch, name):
    notebook = write_notebook(own_notebooks / "01_memorization.ipynb")
    write_notebook(own_notebooks / "02_insight.ipynb")
    monkeypatch.chdir("/")
    assert cli.find_notebook(name) == notebook


def test_a_notebook_in_a_folder_and_a_path(own_notebooks, tmp_path, monkeypatch):
    novelty = write_notebook(own_notebooks / "ablations" / "novelty.ipynb")
    (own_notebooks / ".ipynb_checkpoints").mkdir()
    write_notebook(own_notebooks / ".ipynb_checkpoints" / "novelty-checkpoint.ipynb")
    assert {cli.find_notebook(name) for name in ("novelty", "ablations/novelty", "ablations/nov")} == {novelty}
    mine = write_notebook(tmp_path / "mine.ipynb")
    monkeypatch.chdir(tmp_path)
    assert cli.find_notebook("mine.ipynb") == mine


# --- the verbs --------------------------------------------------------------------------------------------------------


def test_demo_runs_all_papers_reports_and_exits_with_1_if_one_fails(own_notebooks, published, tmp_path):
    counter, out = tmp_path / "counter", tmp_path / "out"
    write_notebook(own_notebooks / "01_bad.ipynb", "raise ValueError('broken')")
    write_notebook(own_notebooks / "02_good.ipynb", counting(counter))
    write_notebook(own_notebooks / "11_walkthrough.ipynb", counting(counter))
    result = lab("demo", "--output", out, "--seed", 4)
    assert result.exit_code == 1
    assert published.fetched == list(artifacts.ARTIFACTS)
    assert published.compiled == ["architectures", "augmentations"]
    assert published.reported == [out]
    assert result.stdout.splitlines()[-1] == f"report  {out / 'index.html'}"
    assert len(result.stderr.splitlines()) == 3
    assert "ValueError: broken" in result.stderr
    assert times(counter) == 1
    record = manifest.read(out / "02_good" / "latest")
    assert (record["profile"], record["seed"], record["status"]) == ("demo", 4, "ok")


def test_run_passes_parameters_and_says_where(own_notebooks, tmp_path):
    write_notebook(own_notebooks / "01_x.ipynb", "print(top * 2, size)", parameters="top = 1\nsize = 0.5")
    result = lab("run", "01", "-p", "top", "-4", "-p", "size", "3", "--output", tmp_path)
    assert result.exit_code == 0
    assert result.stdout.startswith("ok  01_x  ")
    assert "-8 3.0" in (tmp_path / "01_x" / "latest" / "executed.ipynb").read_text()
    assert manifest.read(tmp_path / "01_x" / "latest")["parameters"] == {"top": -4, "size": 3.0}


def test_a_parameter_may_be_written_with_an_equals_sign(own_notebooks, tmp_path):
    write_notebook(own_notebooks / "01_x.ipynb", "print(name, top)", parameters="top = 1\nname = ''")
    result = lab("run", "1", "-p", "top=2", "-p", "name", "a=b", "--output", tmp_path)
    assert result.exit_code == 0
    assert manifest.read(tmp_path / "01_x" / "latest")["parameters"] == {"top": 2, "name": "a=b"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "rank", "0"], "rank takes a whole number from 1 up"),
        (["-p", "rank", "8.5"], "takes a whole number"),
        (["-p", "temperature=-1"], "a temperature of -1.0 means nothing"),
        (["-p", "threshold", "3"], "a threshold of 3.0 selects nothing"),
        (["-p", "lr", "0"], "lr 0.0"),
        (["-p", "prompt", "depth.txt"], "has the field 'depth', which this loop does not fill"),
        (["-p", "prompt", "torn.txt"], "the prompt torn.txt cannot be used"),
        (["-p", "prompt", "archtecture_nano"], "did you mean 'architecture_nano'"),
        (["-p", "images", "cifar-1"], "did you mean 'cifar-10'"),
        (["--device", "mps"], "candidates are not trained on mps"),
        (["--device", "cuda:x"], "there is no device 'cuda:x'"),
        (["--device", "cuda:1"], "needs a CUDA device, and torch finds none here"),
    ],
)
def test_a_paper_notebooks_own_values_are_refused_before_it_starts(tmp_path, monkeypatch, arguments, message):
    monkeypatch.setattr(manifest, "cuda_devices", list)
    monkeypatch.delenv("NNGPT_LAB_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "depth.txt").write_text("#: fields: depth\n#: user\nDraw $depth.\n")
    (tmp_path / "torn.txt").write_text("#: fields: dataset\n#: user\nDraw.\n")
    result = lab("run", "01", *arguments, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not list((tmp_path / "out").rglob("executed.ipynb"))


def test_fetch_by_name_compiles_nothing(published):
    name = next(iter(artifacts.ARTIFACTS))
    assert lab("fetch", name).exit_code == 0
    assert (published.fetched, published.compiled) == ([name], [])


def test_an_option_that_no_notebook_takes_is_told_and_left_out(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr(runner, "run_notebooks", lambda *given, **options: ran.append(given[3]) or [])
    done = lab("run", write_notebook(tmp_path / "n.ipynb"), "--isolation", "weak", "--device", "cpu", "-p", "top", 3)
    assert done.exit_code == 0 and ran == [{"top": "3"}]
    assert "--isolation weak: nothing in" in done.stderr and "--device cpu: nothing in" in done.stderr


def test_minutes_that_are_no_time_are_refused(tmp_path):
    done = lab("run", write_notebook(tmp_path / "n.ipynb"), "--minutes", "nan", "--output", tmp_path / "out")
    assert done.exit_code == 2 and "does nothing" in done.output and not (tmp_path / "out").exists()


def test_prune_lists_deletes_when_told_and_keeps_the_reference(tmp_path, monkeypatch):
    assert "there are no runs" in lab("prune", tmp_path).output
    for name, day, status in ("seed-0", 1, "failed"), ("seed-1", 2, "ok"):
        leave(tmp_path / "01_x" / name, status, day=day)
    listed = lab("prune", tmp_path)
    assert "would go  01_x/seed-0" in listed.stdout and "--yes" in listed.stdout and (tmp_path / "01_x/seed-0").exists()
    assert "deleted  01_x/seed-0" in lab("prune", tmp_path, "--yes").stdout
    assert [path.name for path in (tmp_path / "01_x").iterdir()] == ["seed-1"]
    monkeypatch.setattr(paths, "results_root", lambda: tmp_path)
    assert lab("prune", tmp_path / "reference" / "demo", "--yes").exit_code == 2


def test_report_of_a_profile_or_a_folder(published, tmp_path):
    assert lab("report", tmp_path).exit_code == 0
    assert lab("report", "--profile", "smoke").exit_code == 0
    assert published.reported == [tmp_path, paths.results_root() / "smoke"]


@pytest.mark.parametrize("ok", [True, False])
def test_doctor_can_try_the_gpu_s_stand_in_alone(ok, monkeypatch):
    monkeypatch.setattr(doctor, "cuda_stand_in", lambda: doctor.Check("isolation", "CUDA's driver", ok, "was tried"))
    result = lab("doctor", "--gpu-stand-in")
    assert result.exit_code == 1 - ok and "CUDA's driver  was tried" in result.stdout


def test_doctor_exits_with_1_only_when_nothing_can_run(monkeypatch):
    possible, impossible = (doctor.Check("profiles", "smoke", ok, "…") for ok in (True, False))
    monkeypatch.setattr(doctor, "examine", lambda: [possible])
    assert lab("doctor").exit_code == 0
    monkeypatch.setattr(doctor, "examine", lambda: [impossible])
    result = lab("doctor", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["smoke_possible"] is False


def test_a_disk_s_refusal_has_a_cure_and_no_traceback(monkeypatch, published):
    def full(*args, **kwargs):
        raise OSError(errno.EROFS, "Read-only file system", "/home/me")

    monkeypatch.setattr(artifacts, "fetch", full)
    result = lab("fetch")
    assert result.exit_code == 1 and "error: Read-only file system: /home/me\n  cure: " in result.stderr


def test_ctrl_c_exits_with_130(monkeypatch, published):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(artifacts, "fetch", interrupt)
    result = lab("fetch")
    assert result.exit_code == 130
    assert "the same command continues" in result.stderr
