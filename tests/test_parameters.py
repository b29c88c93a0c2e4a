"""What a notebook is given: names, types and values, refused before a kernel starts."""

import nbformat
import pytest

from nngpt_lab import parameters, runner
from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.records import manifest
from tests.helpers.tiny_model import save_tiny
from tests.helpers.tiny_notebooks import HEADER, refused, write_notebook


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
    ("walkthroughs/from_text_to_score", {"protocol": "digits-augmentation"}, "not for architectures"),
    ("walkthroughs/from_text_to_score", {"augmentation_protocol": "digits"}, "not for augmentations"),
    ("walkthroughs/from_text_to_score", {"parameters": "-5"}, "from 1 up, not -5"),
    ("walkthroughs/minhash", {"repeats": "1"}, "from 2 up, not 1"),
    ("walkthroughs/lora", {"alpha": "0"}, "from 1 up, not 0"),
    ("walkthroughs/lora", {"texts": "-1"}, "from 1 up, not -1"),
    ("ablations/network_prompts", {"prompts": "transform_nano"}, "which this loop does not fill"),
    ("ablations/network_prompts", {"prompts": "architecture_paper, architecture_paper"}, "twice"),
    ("ablations/loop_settings", {"axes": "rank,rank"}, "axes names 'rank' twice"),
    ("ablations/loop_settings", {"coder": "all"}, "one model here"),
    ("ablations/cot_vs_direct", {"coder": "nano-coder,nano-coder"}, "names 'nano-coder' twice"),
    ("03_code_to_prediction", {"coder": "nano-coder, nano-coder"}, "names 'nano-coder' twice"),
    ("03_code_to_prediction", {"test": "1"}, "from 4 up, not 1"),
    ("03_code_to_prediction", {"train": "1"}, "from 4 up, not 1"),
    ("01_memorization_to_creativity", {"coder": "nano-coder,SmolLM2-135M"}, "one model here"),
    ("04_delta_search", {"coder": "all"}, "one model here"),
]


@pytest.mark.parametrize(("notebook", "given", "message"), VALUES)
def test_the_lab_s_notebooks_get_no_value_that_their_tables_lack(notebook, given, message, tmp_path, no_kernel):
    path = paths.notebooks_folder() / f"{notebook}.ipynb"
    assert message in refused(path, output=tmp_path / "out", parameters=given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("notebook", ["01_memorization_to_creativity", "ablations/cot_vs_direct"])
def test_a_model_of_ones_own_that_cannot_be_asked_starts_nothing(notebook, tmp_path, no_kernel):
    """A download page that was saved as a GGUF file, and a model without a chat template: known from their headers."""
    page, plain = tmp_path / "page.gguf", save_tiny(tmp_path / "plain")
    page.write_text("<html>")
    for coder, message in ((page, "is not a GGUF file"), (plain, "has no chat template")):
        given = {"coder": f"nano-coder,{coder}" if "cot" in notebook else str(coder)}
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
