"""What ``nngpt-lab export`` writes is what others' validators accept, offline, and says what the manifest says.

``schemas/every_eval_ever_0.3.0.json`` is that project's own schema, under its licence beside it. The context of
RO-Crate 1.3 is the one that the package ``rocrate`` carries.
"""

from __future__ import annotations

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import jsonschema
import mlcroissant
import pandas as pd
import pytest
import requests
import rocrate
from rocrate_validator import models, services
from rocrate_validator.utils import http

from nngpt_lab import __version__, exports
from nngpt_lab.corpora import architectures, augmentations
from nngpt_lab.ground import paths
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.records import manifest
from tests.test_cli import lab

pytestmark = [  # of the validators' own code
    pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning"),
]
HERE = Path(__file__).parent
CONTEXT = Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld"
PAPER_C = paths.results_root() / "reference" / "demo" / "03_code_to_prediction"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A small run: the record of the reference of paper C with two of its files, one of them changed in name."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "tables").mkdir()
    record = json.loads((PAPER_C / "manifest.json").read_text())
    for name in ("contents.json", "executed.ipynb"):
        shutil.copy2(PAPER_C / name, folder / name)
    for name in ("claims.csv", "published_results.csv"):
        shutil.copy2(PAPER_C / "tables" / name, folder / "tables" / name)
    spaced = folder / "tables" / "a table.csv"
    spaced.write_text("x\n1\n")
    record["outputs"] |= {"tables/a table.csv": manifest.sha256_file(spaced)}
    manifest.write(folder, record)
    return folder


@pytest.fixture(scope="module")
def crate(run, tmp_path_factory) -> Path:
    """The run as a crate, files and all."""
    folder = shutil.copytree(run, tmp_path_factory.mktemp("crate") / "crate")
    done = lab("export", "ro-crate", folder)
    assert done.exit_code == 0 and done.output == f"export  {folder / 'ro-crate-metadata.json'}\n"
    return folder


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """RO-Crate's context from the disk; whatever else the validator asks for is not there."""

    def answer(_requester, method):
        if method not in ("get", "head"):
            raise AttributeError(method)

        def get(url, *_, **__):
            found = requests.Response()
            found.status_code, found._content = 504, b""
            if url == "https://w3id.org/ro/crate/1.3/context":
                found.status_code, found._content = 200, CONTEXT.read_bytes()
                found.headers["Content-Type"] = "application/ld+json"
            return found

        return get

    monkeypatch.setattr(http.HttpRequester, "__getattr__", answer)

    def problems(folder: Path, profile: str) -> list[str]:
        settings = services.ValidationSettings(
            rocrate_uri=str(folder), profile_identifier=profile, offline=True, cache_path=str(tmp_path / "cache"),
            requirement_severity=models.Severity.REQUIRED,
            disable_inherited_profiles_issue_reporting=True,  # its Process Run Crate still extends RO-Crate 1.1
        )  # fmt: skip
        return [issue.message for issue in services.validate(settings).get_issues()]

    return problems


@pytest.mark.parametrize(
    "profile",
    [
        "process-run-crate",
        pytest.param("ro-crate-1.3", marks=pytest.mark.slow),  # its shapes alone take a quarter of a minute
    ],
)
def test_a_run_is_a_crate_of_the_profile(crate, offline, profile):
    assert offline(crate, profile) == []


def test_the_validator_finds_what_is_missing(crate, offline, tmp_path):
    """Without this the test above could pass on anything."""
    damaged = shutil.copytree(crate, tmp_path / "damaged")
    content = json.loads((damaged / "ro-crate-metadata.json").read_text())
    next(entity for entity in content["@graph"] if entity["@id"] == "#run").pop("instrument")
    (damaged / "ro-crate-metadata.json").write_text(json.dumps(content))
    assert any("instrument" in message for message in offline(damaged, "process-run-crate"))


def test_the_crate_says_what_the_manifest_says(crate):
    record = json.loads((crate / "manifest.json").read_text())
    entities = {each["@id"]: each for each in json.loads((crate / "ro-crate-metadata.json").read_text())["@graph"]}
    action, notebook = entities["#run"], entities["executed.ipynb"]
    ended = datetime.fromisoformat(record["started"]) + timedelta(seconds=record["seconds"])
    assert action["startTime"] == record["started"] and action["endTime"] == f"{ended:%Y-%m-%dT%H:%M:%S}+00:00"
    assert entities["#parameter-llm_seeds"]["value"] == record["parameters"]["llm_seeds"] == 5
    assert "#parameter-coder" not in entities  # it was not given
    assert entities["#data-nn-dataset%3D%3D2.1.2"]["sha256"] == record["data"]["nn-dataset==2.1.2"]
    assert (
        record["commit"] in notebook["version"]
        and f"torch=={record['packages']['torch']}" in notebook["softwareRequirements"]
    )
    assert entities["https://arxiv.org/abs/2605.03686"]["name"].startswith("From Code to Prediction")
    parts = {each["@id"] for each in entities["./"]["hasPart"]}
    assert parts == {"contents.json", "executed.ipynb", "manifest.json", "tables/a%20table.csv", "tables/claims.csv",
                     "tables/published_results.csv"}  # fmt: skip
    table = entities["tables/published_results.csv"]
    assert table["sha256"] == manifest.sha256_file(crate / "tables" / "published_results.csv")
    assert (
        table["description"]
        == json.loads((crate / "contents.json").read_text())["tables"]["published_results"]["caption"]
    )


def test_a_run_that_failed_says_so_and_a_new_run_takes_the_crate_away(crate, tmp_path):
    failed = shutil.copytree(crate, tmp_path / "failed")
    error = {"cell": 3, "line": "x", "type": "ValueError", "message": "no"}
    manifest.write(failed, json.loads((failed / "manifest.json").read_text()) | {"status": "failed", "error": error})
    action = next(each for each in exports.ro_crate(failed)["@graph"] if each["@id"] == "#run")
    assert action["actionStatus"].endswith("FailedActionStatus") and json.loads(action["error"]) == error
    manifest.clear(failed)
    assert not (failed / "ro-crate-metadata.json").exists()


def test_published_models_in_every_eval_ever(run, tmp_path):
    done = lab("export", "every-eval-ever", run, "--output", tmp_path)
    assert done.exit_code == 0
    files = sorted((tmp_path / "every_eval_ever").glob("*.json"))
    assert [file.stem for file in files] == ["DeepSeek-Coder-1.3B-reported", "DeepSeek-Coder-7B-reported"]
    schema = json.loads((HERE / "schemas" / "every_eval_ever_0.3.0.json").read_text())
    records = [json.loads(file.read_text()) for file in files]
    for record in records:
        jsonschema.validate(record, schema)
        assert schema["version"] == record["schema_version"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(records[0] | {"eval_library": {}}, schema)
    by_score = {each["score_details"]["score"]: each for each in records[1]["evaluation_results"]}
    code_only = by_score[80.0]
    published = pd.read_csv(run / "tables" / "published_results.csv").query("model == '7B' and prompt == 'code only'")
    interval = code_only["score_details"]["uncertainty"]["confidence_interval"]
    assert interval["lower"] == published["ci_low"].item() and interval["upper"] == published["ci_high"].item()
    assert code_only["score_details"]["uncertainty"]["num_samples"] == 30
    claims = pd.read_csv(run / "tables" / "claims.csv").set_index("claim_id")
    assert code_only["score_details"]["details"]["verdict"] == claims.loc["C-code-7b", "verdict"]
    assert records[1]["model_info"]["id"] == "deepseek-ai/deepseek-coder-7b-instruct-v1.5"


def test_a_run_s_own_measurement_of_a_published_model_is_a_record_of_its_own(run, tmp_path):
    measured = shutil.copytree(run, tmp_path / "run")
    rows = {"model": ["SmolLM2-135M", "nano-coder"], "prompt": "p", "n": 96, "valid": [0.25, 0.5], "valid_low": 0.1}
    pd.DataFrame(rows | {"valid_high": 0.6}).to_csv(measured / "tables" / "validity.csv", index=False)
    found = exports.every_eval_ever(measured)
    assert set(found) == {"DeepSeek-Coder-1.3B-reported", "DeepSeek-Coder-7B-reported", "SmolLM2-135M"}
    result = found["SmolLM2-135M"]["evaluation_results"][0]
    assert result["score_details"]["score"] == 0.25 and result["metric_config"]["max_score"] == 1
    assert found["SmolLM2-135M"]["source_metadata"]["source_type"] == "evaluation_run"
    jsonschema.validate(
        found["SmolLM2-135M"], json.loads((HERE / "schemas" / "every_eval_ever_0.3.0.json").read_text())
    )


def test_the_corpora_as_croissant(tmp_path, monkeypatch, caplog):
    """Described as they are: mlcroissant accepts the description and reads the rows by it."""
    codes = pd.DataFrame({"name": ["a", "b"], "code": ["x = 1", "y"], "lines": [1, 2], "parses": [True, False]})
    records = pd.DataFrame({"architecture": pd.Categorical(["a"]), "accuracy": [0.5]})  # as the compiled ones are
    issues = pd.DataFrame({"reason": ["r"], "count": [1]})
    functions = pd.DataFrame({"name": ["f"], "operations": [["Pad", "Crop"]], "score": [0.7]})
    monkeypatch.setattr(architectures, "load", lambda: architectures.Lemur(codes, records, issues))
    monkeypatch.setattr(augmentations, "load", lambda: augmentations.Augmentations(functions, records, issues))
    done = lab("export", "croissant", "--output", tmp_path)
    assert done.exit_code == 0, done.output
    dataset = mlcroissant.Dataset(tmp_path / "croissant.json")
    assert not dataset.metadata.ctx.issues.errors and not caplog.records  # it warns of a context of one's own
    assert str(dataset.metadata.ctx.conforms_to.value).endswith("1.1")
    rows = list(dataset.records("nn-dataset/architectures"))
    assert [row["nn-dataset/architectures/code"] for row in rows] == [b"x = 1", b"y"]
    assert [row["nn-dataset/architectures/lines"] for row in rows] == [1, 2]
    assert {each.uuid for each in dataset.metadata.record_sets} == {
        f"{wheel}/{table}" for wheel, tables in {"nn-dataset": ("architectures", "records", "issues"),
                                                 "nn-gpt": ("functions", "five_epochs", "issues")}.items()
        for table in tables}  # fmt: skip
    assert "nn-gpt 1.0.6 (MIT)" in (tmp_path / "croissant.json").read_text()


def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for form in "croissant", "codemeta":
        done = lab("export", form, "--output", tmp_path / "file" / "out")
        assert done.exit_code == 2 and "choose another --output" in done.output


def test_codemeta_is_the_package_s_own_metadata(tmp_path):
    assert lab("export", "codemeta", "--output", tmp_path).exit_code == 0
    content = json.loads((tmp_path / "codemeta.json").read_text())
    assert content["@context"] == "https://w3id.org/codemeta/3.0" and content["version"] == __version__
    assert any(line.startswith("torch") for line in content["softwareRequirements"])
    assert not any("mlcroissant" in line for line in content["softwareRequirements"])  # only tests need it
    assert {each["@id"][-10:] for each in content["referencePublication"]} >= {"2601.02997", "2605.04903"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ro-crate"], "describes a run"),
        (["ro-crate", "nowhere"], "there is no run 'nowhere'"),
        (["codemeta", "nowhere"], "there is no run"),
        (["codemeta", "."], "describes no run"),
        (["bagit"], "Invalid value"),
    ],
)
def test_bad_input_exits_with_2(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = lab("export", *arguments)
    assert done.exit_code == 2 and said in done.output


def test_a_run_without_what_is_asked_for_says_so(run, tmp_path):
    bare = shutil.copytree(run, tmp_path / "bare")
    (bare / "tables" / "published_results.csv").unlink()
    (bare / "executed.ipynb").unlink()
    with pytest.raises(UsageError, match="name no published model"):
        exports.every_eval_ever(bare)
    with pytest.raises(UsageError, match="no executed notebook"):
        exports.ro_crate(bare)
