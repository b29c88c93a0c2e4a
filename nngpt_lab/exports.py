"""``nngpt-lab export``: runs, corpora and the lab itself in the forms that other people's tools read.

Everything comes from manifests, tables and the package's own metadata; nothing is written by hand.

``ro-crate``         a run's folder as RO-Crate 1.3 under Process Run Crate 0.6
``every-eval-ever``  what a run says of published language models, a record a model, in that schema's version 0.3.0
``croissant``        the compiled corpora, Parquet with a description in Croissant 1.1
``codemeta``         the lab, in CodeMeta 3.0
"""

from __future__ import annotations

import contextlib
import json
import mimetypes
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.ground.files import replacing
from nngpt_lab.ground.formatting import words
from nngpt_lab.ground.hashing import sha256_file
from nngpt_lab.records import manifest, run_folders
from nngpt_lab.registry import PAPERS

CRATE = manifest.CRATE
MAINTAINERS = "the nngpt-lab maintainers"
TYPES = {".ipynb": "application/x-ipynb+json", ".md": "text/markdown", ".parquet": "application/vnd.apache.parquet",
         ".sqlite": "application/vnd.sqlite3", ".safetensors": "application/octet-stream"}  # fmt: skip


# --- a run ------------------------------------------------------------------------------------------------------------


def finished(run: Path) -> tuple[Path, dict[str, Any]]:
    """A run's folder (of a notebook's folder the latest run's) and its manifest; UsageError where there is none."""
    folder = (run_folders.latest(run) or run) if run.is_dir() else run
    record = manifest.read(folder)
    if record is None or "started" not in record:
        raise UsageError(f"{manifest.display(run)} is no finished run", "name one that `nngpt-lab runs` lists")
    return folder, record


def ro_crate(run: Path) -> dict[str, Any]:
    """A run as a crate: the notebook executed, by which version, on what, with which parameters, and each file left.

    Who ran it is left out: manifests name nobody.
    """
    folder, record = finished(run)
    began = datetime.fromisoformat(record["started"])
    ended = (began + timedelta(seconds=record["seconds"])).isoformat(timespec="seconds")
    name = f"{Path(record['notebook']).stem}, profile {record['profile']}, seed {record['seed']}"
    there = {file for file in record["outputs"] if (folder / file).is_file()} | {manifest.FILENAME}
    captions = _captions(folder)
    files = [_file(folder, file, captions.get(Path(file).with_suffix("").as_posix())) for file in sorted(there)]
    data = [
        _entity(f"#data-{quote(key)}", "CreativeWork", key, sha256=digest) for key, digest in record["data"].items()
    ]
    given = {"profile": record["profile"], "seed": record["seed"], **record["parameters"]}
    values = [_entity(f"#parameter-{key}", "PropertyValue", key, value=_plain(value))
              for key, value in given.items() if value is not None]  # fmt: skip
    papers = [_entity(f"https://arxiv.org/abs/{number}", "ScholarlyArticle", title)
              for number, title, _ in (PAPERS[key] for key in _papers(folder))]  # fmt: skip
    makers = _entity("#maintainers", "Organization", MAINTAINERS)
    python = _entity("#python", "ComputerLanguage", "Python", version=record["python"], url="https://www.python.org")
    story = next((file for file in files if file["@id"] == manifest.EXECUTED), None)
    if story is None:
        raise UsageError(f"{manifest.display(folder)} has no executed notebook", "run it again, then export it")
    story["@type"] = ["File", "SoftwareSourceCode"]  # what was run, and by what
    story |= {
        "version": _version(record),
        "programmingLanguage": _ids([python]),
        "runtimePlatform": f"{record['platform']}, {record['device']}",
        "softwareRequirements": [f"{key}=={value}" for key, value in record["packages"].items() if value],
    }
    well = record["status"] in ("ok", "incomplete")
    told = {"actionStatus": f"http://schema.org/{'Completed' if well else 'Failed'}ActionStatus"}
    action = _entity("#run", "CreateAction", name, instrument=_ids([story]), result=_ids(files),
                     description=f"nngpt-lab ran {record['notebook']} in {record['seconds']:.0f} s: {record['status']}",
                     startTime=began.isoformat(timespec="seconds"), endTime=ended, object=_ids([*data, *values]),
                     **told if well else told | {"error": _plain(record["error"])})  # fmt: skip
    root = _entity("./", "Dataset", f"nngpt-lab: {name}", conformsTo=_ids([PROCESS]), license=_ids([LICENCE]),
                   description=f"Tables, figures and executed notebook of {record['notebook']}.", datePublished=ended,
                   author=_ids([makers]), publisher=_ids([makers]), hasPart=_ids(files), mentions=_ids([action]),
                   **{"citation": _ids(papers)} if papers else {})  # fmt: skip
    about = _entity(CRATE, "CreativeWork", "RO-Crate metadata", about=_ids([root]),
                    conformsTo={"@id": "https://w3id.org/ro/crate/1.3"})  # fmt: skip
    graph = [about, root, action, python, makers, PROCESS, LICENCE, *data, *values, *papers, *files]
    return {"@context": "https://w3id.org/ro/crate/1.3/context", "@graph": graph}


def _entity(key: str, kind: str | list[str], name: str, **properties: Any) -> dict[str, Any]:
    return {"@id": key, "@type": kind, "name": name, **properties}


def _ids(entities: list[dict[str, Any]]) -> Any:
    """References to entities; to a single one without a list, as the specification recommends."""
    found = [{"@id": entity["@id"]} for entity in entities]
    return found[0] if len(found) == 1 else found


PROCESS = _entity(
    "https://w3id.org/ro/wfrun/process/0.6", ["CreativeWork", "Profile"], "Process Run Crate", version="0.6"
)
LICENCE = _entity("https://spdx.org/licenses/MIT", "CreativeWork", "MIT License", description="of the lab's own files")


def _version(record: dict[str, Any]) -> str:
    version = record["packages"].get("nngpt-lab") or "unknown"
    return f"{version}, commit {record['commit']}" if record["commit"] else version


def _file(folder: Path, name: str, caption: str | None) -> dict[str, Any]:
    path = folder / name
    kind = TYPES.get(path.suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"
    told = caption or f"{words(path.stem)}, as the run left it"
    return _entity(quote(name), "File", name, description=told, encodingFormat=kind, sha256=sha256_file(path),
                   contentSize=str(path.stat().st_size))  # fmt: skip


def _captions(folder: Path) -> dict[str, str]:
    try:
        contents = json.loads((folder / "contents.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {f"{kind}/{name}": item["caption"] for kind in ("tables", "figures")
            for name, item in contents.get(kind, {}).items()}  # fmt: skip


def _papers(folder: Path) -> list[str]:
    claims = folder / "tables" / "claims.csv"
    found = set(pd.read_csv(claims)["paper"]) if claims.is_file() else set()
    return sorted(found & PAPERS.keys())


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) else json.dumps(value)


# --- what a run says of published models ------------------------------------------------------------------------------

READ = {  # tables that name models: columns of the model, the score in per cent or as a share, its interval, and unit
    "published_results": ("model", "accuracy", "ci_low", "ci_high", 100),
    "models_and_baselines": ("answerer", "accuracy", "low", "high", 1),
    "validity": ("model", "valid", "valid_low", "valid_high", 1),
}
PUBLISHED = {"7B": "DeepSeek-Coder-7B", "1.3B": "DeepSeek-Coder-1.3B"}  # what paper C's table calls its models


def every_eval_ever(run: Path) -> dict[str, dict[str, Any]]:
    """A record for each published model that the run's tables name, by its name; UsageError if they name none.

    What a paper reports of its own model is ``documentation`` with the claims' verdicts; what the run measured itself
    is an ``evaluation_run``.
    """
    from nngpt_lab.llm.catalogue import MODELS

    folder, record = finished(run)
    stamp = str(int(datetime.fromisoformat(record["started"]).timestamp()))
    results: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    for name, (column, *numbers, most) in READ.items():
        file = folder / "tables" / f"{name}.csv"
        for row in pd.read_csv(file).to_dict("records") if file.is_file() else ():
            model, reported = PUBLISHED.get(row[column], row[column]), name == "published_results"
            if model in MODELS and model != "nano-coder" and pd.notna(row[numbers[0]]):
                told = _result(folder, name, column, row, numbers, most, reported)
                results.setdefault((model, reported), []).append(told)
    if not results:
        cause = f"the tables of {manifest.display(folder)} name no published model"
        raise UsageError(cause, "name a run with -p coder MODEL, or notebook 03's, which has what paper C publishes")
    return {
        f"{model}{'-reported' * reported}": {
            "schema_version": "0.3.0",
            "evaluation_id": f"{Path(record['notebook']).stem}/{MODELS[model].location}/{stamp}",
            "evaluation_timestamp": record["started"],
            "retrieved_timestamp": stamp,
            "source_metadata": {
                "source_name": f"arXiv {PAPERS['C'][0]}, read by nngpt-lab" if reported else "nngpt-lab",
                "source_type": "documentation" if reported else "evaluation_run",
                "source_organization_name": MAINTAINERS,
                "evaluator_relationship": "third_party",
            },
            "eval_library": {"name": "nngpt-lab", "version": record["packages"].get("nngpt-lab") or "unknown",
                             "additional_details": {"commit": str(record["commit"])}},
            "model_info": _model_info(MODELS[model]),
            "evaluation_results": found,
        }
        for (model, reported), found in results.items()
    }  # fmt: skip


def _model_info(spec: Any) -> dict[str, Any]:
    details = {"deployment_type": "self_deployed", "model_availability": "open_weights", "revision": spec.revision,
               "licence": spec.licence, "parameters": str(spec.parameters)}  # fmt: skip
    developer = {"developer": spec.location.partition("/")[0]} if "/" in spec.location else {}
    return {"name": spec.name, "id": spec.location, "additional_details": details} | developer


def _result(
    folder: Path, table: str, column: str, row: dict[str, Any], numbers: list[str], most: int, reported: bool
) -> dict[str, Any]:
    score, low, high = (float(row[name]) for name in numbers)
    told = {key: value for key, value in row.items() if key not in (column, *numbers) and pd.notna(value)}
    condition = ", ".join(f"{words(key)} {value}" for key, value in told.items() if isinstance(value, str))
    verdict = _verdict(folder, row[column], score) if reported else {}
    interval = {"confidence_interval": {"lower": low, "upper": high, "confidence_level": 0.95}}
    counted = {"num_samples": int(row["n"])} if "n" in row else {}
    return {
        "evaluation_name": f"{words(table)}: {condition}",
        "source_data": {"dataset_name": "LEMUR (nn-dataset)", "source_type": "url",
                        "url": [_package("nn-dataset")]},
        "metric_config": {"metric_name": words(numbers[0]), "metric_unit": "percent" if most == 100 else "proportion",
                          "score_type": "continuous", "lower_is_better": False, "min_score": 0, "max_score": most},
        "score_details": {"score": score, "uncertainty": interval | counted,
                          "details": {key: str(value) for key, value in told.items()} | verdict},
    }  # fmt: skip


def _verdict(folder: Path, model: str, score: float) -> dict[str, str]:
    """The claim on this model's score in the run's claims, and its verdict."""
    claims = folder / "tables" / "claims.csv"
    for row in pd.read_csv(claims).to_dict("records") if claims.is_file() else ():
        if row["claim_id"].endswith(f"-{model.lower()}") and abs(row["paper_value"] - score) < 0.05:
            return {"claim_id": row["claim_id"], "verdict": str(row["verdict"])}
    return {}


# --- the corpora and the lab ------------------------------------------------------------------------------------------

KINDS = {"string": "sc:Text", "int": "sc:Integer", "double": "sc:Float", "bool": "sc:Boolean"}  # of Arrow's types
TERMS = ("citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty", "fileSet",
         "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet",
         "references", "regex", "repeated", "replace", "samplingRate", "separator", "source", "subField",
         "transform")  # fmt: skip
CONTEXT = {"@language": "en", "@vocab": "https://schema.org/", "sc": "https://schema.org/",
           "cr": "http://mlcommons.org/croissant/", "rai": "http://mlcommons.org/croissant/RAI/",
           "dct": "http://purl.org/dc/terms/", "conformsTo": "dct:conformsTo", **{term: f"cr:{term}" for term in TERMS},
           "data": {"@id": "cr:data", "@type": "@json"}, "examples": {"@id": "cr:examples", "@type": "@json"},
           "dataType": {"@id": "cr:dataType", "@type": "@vocab"}}  # the one that the specification gives  # fmt: skip


def croissant(folder: Path) -> Path:
    """Write the compiled corpora to ``folder``, a sub-folder each, and describe them there; the description's path.

    The tables hold the authors' code, under their licence, which the description names.
    """
    from nngpt_lab.corpora import architectures, artifacts, augmentations

    files, sets = [], []
    for corpus, artifact in ((architectures.load(), artifacts.LEMUR), (augmentations.load(), artifacts.NNGPT)):
        for table, frame in vars(corpus).items():
            name = f"{artifact.name}/{table}.parquet"
            _write_table(frame, folder / name)
            origin = f"Compiled by nngpt-lab from {artifact.name} {artifact.version} ({artifact.licence})."
            files.append({"@type": "cr:FileObject", "@id": name, "name": name, "contentUrl": name,
                          "encodingFormat": "application/x-parquet", "sha256": sha256_file(folder / name),
                          "description": origin})  # fmt: skip
            sets.append(_record_set(name, folder / name))
    number, title, authors = PAPERS["A"]
    described = {
        "@context": CONTEXT, "@type": "sc:Dataset", "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": "nngpt-corpora", "version": metadata.version("nngpt-lab"),
        "datePublished": datetime.now(UTC).date().isoformat(),
        "description": f"{architectures.__doc__}\n\n{augmentations.__doc__}",
        "license": [f"https://spdx.org/licenses/{artifacts.LEMUR.licence}"], "url": _package(artifacts.LEMUR.name),
        "distribution": files, "recordSet": sets, "citeAs": f"{authors}: {title}. arXiv {number}",
    }  # fmt: skip
    return write(described, folder / "croissant.json")


def _write_table(frame: pd.DataFrame, file: Path) -> None:
    """As Parquet that any reader knows: Croissant has no type for pandas' categories."""
    categories = frame.select_dtypes("category")
    plain = frame.astype({name: categories[name].cat.categories.dtype for name in categories})
    with _writable(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        plain.to_parquet(file, index=False, compression="zstd")


def _record_set(name: str, table: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    key, fields = name.removesuffix(".parquet"), []
    for column in pq.read_schema(table):
        array = str(column.type).startswith(("list", "large_list"))
        kind = KINDS[re.sub(r"^large_|\d+$", "", str(column.type.value_type if array else column.type))]
        fields.append({"@type": "cr:Field", "@id": f"{key}/{column.name}", "name": column.name, "dataType": kind,
                       **({"cr:isArray": True, "cr:arrayShape": "-1"} if array else {}),
                       "source": {"fileObject": {"@id": name}, "extract": {"column": column.name}}})  # fmt: skip
    return {"@type": "cr:RecordSet", "@id": key, "name": key, "field": fields}


def _package(project: str) -> str:
    return f"pkg:pypi/{project}"  # a package URL: whichever index someone installs from


def codemeta() -> dict[str, Any]:
    """The installed package's own metadata, and the papers it examines."""
    about = metadata.metadata("nngpt-lab")
    needed = [line for line in metadata.requires("nngpt-lab") or [] if "extra ==" not in line]
    return {
        "@context": "https://w3id.org/codemeta/3.0", "@type": "SoftwareSourceCode", "name": about["Name"],
        "version": about["Version"], "description": about["Summary"], "license": LICENCE["@id"],
        "programmingLanguage": "Python", "runtimePlatform": f"Python {about['Requires-Python']}",
        "keywords": about["Keywords"].split(","), "softwareRequirements": needed, "developmentStatus": "active",
        "author": [{"@type": "Organization", "name": MAINTAINERS}],
        "referencePublication": [{"@type": "ScholarlyArticle", "@id": f"https://arxiv.org/abs/{number}", "name": title}
                                 for number, title, _ in PAPERS.values()],
    }  # fmt: skip


# --- writing ----------------------------------------------------------------------------------------------------------


def write(content: dict[str, Any], file: Path) -> Path:
    """Write JSON in one step; a UsageError where that is not allowed."""
    with _writable(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as out:
            out.write(f"{json.dumps(content, indent=1, ensure_ascii=False)}\n".encode())
    return file


@contextlib.contextmanager
def _writable(file: Path) -> Iterator[None]:
    """A UsageError where a file cannot be written."""
    try:
        yield
    except OSError as error:
        cause = f"cannot write {manifest.display(file)}: {error.strerror}"
        raise UsageError(cause, "choose another --output") from error


def export(form: str, run: Path | None, output: Path | None) -> list[Path]:
    """Write one of :data:`FORMS`; the files written. ``output``: a folder; None: the run's, or where one stands."""
    if form in ("ro-crate", "every-eval-ever") and run is None:
        raise UsageError(f"{form} describes a run", f"nngpt-lab export {form} RUN, one that `nngpt-lab runs` lists")
    if form in ("croissant", "codemeta") and run is not None:
        raise UsageError(f"{form} describes no run", f"leave out {manifest.display(run)}")
    return FORMS[form](run, output)


def _evaluations(run: Path, output: Path | None) -> list[Path]:
    folder = (output or finished(run)[0]) / "every_eval_ever"
    return [write(record, folder / f"{name}.json") for name, record in every_eval_ever(run).items()]


FORMS: dict[str, Callable[[Any, Path | None], list[Path]]] = {
    "ro-crate": lambda run, output: [write(ro_crate(run), (output or finished(run)[0]) / CRATE)],
    "every-eval-ever": _evaluations,
    "croissant": lambda run, output: [croissant(output or Path("corpora"))],
    "codemeta": lambda run, output: [write(codemeta(), (output or Path()) / "codemeta.json")],
}
