"""The notebooks' form, and one of them through the command line; nbval runs the others in their smoke defaults."""

import ast
import json

import nbformat
import pandas as pd
import pytest
from click.testing import CliRunner

from nngpt_lab import parameters
from nngpt_lab.cli import cli
from nngpt_lab.corpora import artifacts
from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import DataError
from nngpt_lab.statistics.claims import COLUMNS, VERDICTS, load_claims
from tests.helpers import forks
from tests.helpers.executed import warnings_in

NOTEBOOKS = sorted(paths.notebooks_folder().rglob("*.ipynb"))
PROMISED = {  # tables that later work and the report rely on
    "00_tour": {"loop", "best_of_n"},
    "01_memorization_to_creativity": {"proxy_audit", "cycles", "accepted", "controls", "claims"},
    "02_brute_force_to_semantic_insight": {
        "scores_by_operations",
        "operation_effects",
        "replicate_noise",
        "best_of_n",
        "replay_search",
        "ordering",
        "live_epochs",
        "controls",
        "claims",
    },
    "03_code_to_prediction": {
        "baselines",
        "code_views",
        "llm_epochs",
        "models_and_baselines",
        "code_signal",
        "order_swap",
        "claims",
    },
    "04_delta_search": {"parents", "identity", "target_lengths", "limit_one", "in_two_papers", "applier_audit"},
    "cot_vs_direct": {"cot_vs_direct", "arms", "answer_types", "failures", "paired_tests", "verdicts"},
    "loop_settings": {"settings", "cycles", "differences"},
    "network_prompts": {"validity", "causes"},
    "novelty": {"settings", "sensitivity"},
    "pretrain_nano_coder": {"structure", "split", "vocabulary", "losses", "answers", "card"},
    "from_text_to_score": {"network_statuses", "network_failures", "agreement", "function_statuses"},
    "minhash": {"shingles", "estimate_error", "retrieval", "verdicts", "what_is_equal"},
    "lora": {"one_layer", "shares", "losses", "merging", "rank_against_fit"},
}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return request.param, nbformat.read(request.param, as_version=4)


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} >= set(PROMISED)


def test_parameters_cell_has_smoke_defaults(notebook):
    path, content = notebook
    values = parameters.read_parameters(content, path.name)
    assert [values[name].default for name in ("profile", "seed", "output")] == ["smoke", 0, ""]


def test_every_parameter_is_read(notebook):
    """One that no cell reads would be taken with -p and change nothing."""
    path, content = notebook
    code = [
        cell for cell in content.cells if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", ())
    ]
    source = "\n".join(line for cell in code for line in cell.source.splitlines() if not line.startswith("%"))
    read = {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}
    assert not set(parameters.read_parameters(content, path.name)) - read


def test_sources_are_stripped_valid_and_short(notebook):
    _, content = notebook
    nbformat.validate(content)
    assert content.metadata.kernelspec.name == "python3"
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    read = [cell for cell in code if "parameters" not in cell.metadata.get("tags", ())]  # a list, a line a name
    assert max(len(cell.source.splitlines()) for cell in read) <= 18


def test_opens_with_a_title_and_ends_in_words(notebook):
    _, content = notebook
    assert content.cells[0].source.startswith("# ")
    assert content.cells[-1].cell_type == "markdown"
    assert "cannot show" in content.cells[-1].source


def test_every_promised_table_is_written(notebook):
    path, content = notebook
    source = "\n".join(cell.source for cell in content.cells if cell.cell_type == "code")
    missing = [name for name in PROMISED.get(path.stem, ()) if f'"{name}"' not in source]
    assert not missing


def test_the_figure_that_a_claim_names_is_made_by_a_notebook():
    """The report puts it beside the verdict; another's would say something else."""
    sources = "".join(path.read_text(encoding="utf-8") for path in NOTEBOOKS)
    named = {claim.figure for claim in load_claims().values()} - {""}
    assert len(named) > 10 and not [name for name in named if rf"\"{name}\"" not in sources]


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory):
    """Notebook 02, the quickest, as a user would run it; `test_same_seed_same_tables` starts a kernel of its own."""
    try:
        artifacts.fetch(artifacts.NNGPT)
    except DataError as error:
        pytest.skip(f"the published data cannot be had: {error.cause}")
    output = tmp_path_factory.mktemp("results")
    name = "02_brute_force_to_semantic_insight"
    with forks.kernels():
        done = CliRunner().invoke(cli, ["run", "02", "--profile", "smoke", "--output", str(output)])
    assert done.exit_code == 0, done.output
    return output / name / "seed-0"


def test_run_leaves_tables_figures_and_a_manifest_that_vouches_for_them(smoke_run):
    manifest = json.loads((smoke_run / "manifest.json").read_text())
    assert manifest["status"] == "ok"
    assert manifest["data"][f"{artifacts.NNGPT.name}=={artifacts.NNGPT.version}"] == artifacts.NNGPT.sha256
    tables = {path.stem for path in (smoke_run / "tables").glob("*.csv")}
    assert tables >= PROMISED[smoke_run.parent.name]
    for file in (*(smoke_run / "tables").glob("*.csv"), *(smoke_run / "figures").glob("*.svg")):
        assert file.relative_to(smoke_run).as_posix() in manifest["outputs"]
    contents = json.loads((smoke_run / "contents.json").read_text())
    assert set(contents["tables"]) == tables
    assert {path.stem for path in (smoke_run / "figures").glob("*.png")} == set(contents["figures"])


def test_what_counts_as_a_warning_in_an_executed_notebook():
    output = nbformat.v4.new_output
    table = output("display_data", data={"text/plain": "warnings: 3"})
    assert not list(warnings_in([output("stream", name="stdout", text="done"), table]))
    told = output("stream", name="stdout", text="x.py:3: UserWarning: old")
    assert list(warnings_in([output("stream", name="stderr", text="slow"), told])) == ["slow", "UserWarning: old"]


def test_a_run_shows_no_warning(smoke_run):
    cells = nbformat.read(smoke_run / "executed.ipynb", as_version=4).cells
    assert not [text for cell in cells for text in warnings_in(cell.get("outputs", ()))]


def test_claims_of_a_run(smoke_run):
    claims = pd.read_csv(smoke_run / "tables" / "claims.csv").set_index("claim_id")
    assert list(claims.reset_index().columns) == COLUMNS
    assert set(claims["verdict"]) <= set(VERDICTS)
    facts = pd.read_csv(smoke_run / "tables" / "facts.csv").set_index("fact_id")
    assert facts.loc["A-functions", "counted"] == 6000 and (facts["agrees"] == "yes").all()
    untested = claims[claims["verdict"] == "not yet run"]
    assert len(untested) and untested["our_value"].isna().all() and untested["note"].str.len().gt(20).all()


@pytest.mark.slow  # runs the notebook a second time, about a minute; the loops' own tests repeat runs as well
def test_same_seed_same_tables(smoke_run, tmp_path):
    done = CliRunner().invoke(cli, ["run", "02", "--profile", "smoke", "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    second = tmp_path / smoke_run.relative_to(smoke_run.parents[1])
    for table in sorted((smoke_run / "tables").glob("*.csv")):
        texts = [pd.read_csv(run / "tables" / table.name, dtype=str) for run in (smoke_run, second)]
        first, again = (text.loc[:, ~text.columns.str.endswith("_seconds")] for text in texts)  # clocks are no result
        pd.testing.assert_frame_equal(first, again, obj=table.name)
    for figure in sorted((smoke_run / "figures").glob("*.svg")):
        assert figure.read_bytes() == (second / "figures" / figure.name).read_bytes(), figure.name


def test_a_mistyped_parameter_of_a_real_notebook_names_the_nearest():
    done = CliRunner().invoke(cli, ["run", "03", "-p", "seds", "10"])
    assert done.exit_code == 2
    assert "did you mean 'seeds'?" in done.output
