"""CONTRIBUTING.md says what is true: its examples work as they stand there, and what it names exists."""

from __future__ import annotations

import ast
import io
import re
import shutil
from dataclasses import replace

import draw_house
import nbformat
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nngpt_lab import parameters
from nngpt_lab.candidates import protocols
from nngpt_lab.corpora import images
from nngpt_lab.ground.paths import checkout
from nngpt_lab.llm import catalogue, models, prompts
from nngpt_lab.statistics.claims import load_claims, verdict
from nngpt_lab.statistics.intervals import exact

ROOT = checkout()
pytestmark = pytest.mark.skipif(ROOT is None, reason="needs the source checkout")
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8") if ROOT else ""
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S))


def example(section: str) -> str:
    return re.search(r"^```\w+\n(.*?)^```", SECTIONS[section], re.M | re.S)[1]


def test_every_recipe_is_short():
    assert set(SECTIONS) == {f"A {what}" for what in
                             ("prompt", "model", "protocol", "data set", "claim", "notebook", "paper")}  # fmt: skip
    for section, text in SECTIONS.items():
        prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S).split("\n")
        assert sum(bool(line.strip()) for line in prose) <= 10, section


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`((?:nngpt_lab|tests|docs|notebooks)/[\w./]*)`", TEXT))))
def test_what_it_names_is_there(name):
    assert (ROOT / name).exists()


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", TEXT))
def test_links_lead_somewhere(link):
    assert (ROOT / link).exists()


def test_a_prompt(tmp_path, monkeypatch):
    (tmp_path / "my_prompt.txt").write_text(example("A prompt"), encoding="utf-8")
    monkeypatch.setattr(prompts, "FOLDERS", [*prompts.FOLDERS, tmp_path])
    (call,) = re.findall(r"`prompt\(.*?\)\.messages\((.*?)\)`", SECTIONS["A prompt"])
    values = {
        keyword.arg: ast.literal_eval(keyword.value) for keyword in ast.parse(f"f({call})").body[0].value.keywords
    }
    text = "Write a network for digits with at most 1000 parameters."
    assert prompts.prompt("my_prompt").messages(**values) == [{"role": "user", "content": text}]


def test_a_model(monkeypatch):
    spec = eval(example("A model"), {"ModelSpec": catalogue.ModelSpec})
    monkeypatch.setitem(catalogue.MODELS, spec.name, spec)
    assert models.find("My-Coder-1B") is spec
    size = spec.parameters, spec.embeddings
    assert catalogue.memory_gib(*size, four_bit=True) < catalogue.memory_gib(*size)


def test_a_protocol(monkeypatch):
    names = {"replace": replace, "PROTOCOLS": protocols.PROTOCOLS}
    protocol = eval(example("A protocol"), names)
    monkeypatch.setitem(protocols.PROTOCOLS, protocol.name, protocol)
    assert protocols.get_protocol("digits-two-epochs").hash("") != protocols.get_protocol("digits").hash("")


def test_a_data_set(tmp_path, monkeypatch):
    monkeypatch.setenv("NNGPT_LAB_DATA", str(tmp_path))
    monkeypatch.setenv("NNGPT_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(images.SPECS, "mine", eval(example("A data set"), {"Spec": images.Spec}))
    (tmp_path / "mine").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)
    for part in ("train", "test"):
        files = [io.BytesIO() for _ in pixels]
        for file, image in zip(files, pixels, strict=True):
            Image.fromarray(image).save(file, "PNG")
        rows = [{"bytes": file.getvalue(), "path": None} for file in files]
        pq.write_table(pa.table({"img": rows, "label": [0, 1] * 10}), tmp_path / "mine" / f"{part}.parquet")
    data = images.load("mine", holdout_fraction=0.2)
    assert (len(data.train_images), len(data.holdout_images), len(data.test_images)) == (16, 4, 20)
    assert (data.test_images[:, 0].numpy() == pixels).all()


def test_a_claim(tmp_path):
    room = tmp_path / "papers" / "architecture_loop"
    room.mkdir(parents=True)
    (room / "claims.toml").write_text(example("A claim"), encoding="utf-8")
    claim = load_claims(tmp_path)["B-example"]
    assert verdict(claim, exact(60, 100)) == "reproduced"


def test_a_notebook():
    cell = nbformat.v4.new_code_cell(example("A notebook"), metadata={"tags": ["parameters"]})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# Mine"), cell])
    values = parameters.read_parameters(notebook, "mine")
    assert list(values) == ["profile", "seed", "output", "repeats"]


def test_a_paper(tmp_path, monkeypatch):
    package = tmp_path / "nngpt_lab"
    shutil.copytree(
        draw_house.PACKAGE, package, ignore=lambda folder, names: [n for n in names if n.endswith("parquet")]
    )
    room = package / "papers" / "my_paper"
    room.mkdir()
    (room / "__init__.py").write_text('"""arXiv 0000.00000: an example."""\n', encoding="utf-8")
    (room / "design.py").write_text("from nngpt_lab.study.design import Design\n", encoding="utf-8")
    (room / "loop.py").write_text("from nngpt_lab.papers.my_paper.design import Design\n", encoding="utf-8")
    floors = [list(floor) for floor in draw_house.FLOORS]
    floors[1].append("papers.my_paper")
    monkeypatch.setattr(draw_house, "PACKAGE", package)
    monkeypatch.setattr(draw_house, "FLOOR", {room: row for row, floor in enumerate(floors) for room in floor})
    monkeypatch.setattr(draw_house, "ROWS", ((draw_house.VERBS,), *floors[1:]))
    parsed = draw_house.modules()
    words = draw_house.in_words(draw_house.purposes(parsed), draw_house.arrows(draw_house.lab_imports(parsed)))
    assert "papers.my_paper: arXiv 0000.00000: an example.\n    imports study\n" in words
