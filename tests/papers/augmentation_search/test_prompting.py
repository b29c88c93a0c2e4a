"""The two styles as variations of the live loop: what differs, what must not, and the whole way with the nano coder."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from nngpt_lab.candidates.ledger import Ledger
from nngpt_lab.ground.errors import DataError, LabError, UsageError
from nngpt_lab.llm import models
from nngpt_lab.llm.prompts import prompt
from nngpt_lab.papers.augmentation_search import loop, prompting_tables
from nngpt_lab.papers.augmentation_search import prompting as styles
from nngpt_lab.papers.augmentation_search.prompting import STUDIES, arms, profile_studies, styled
from nngpt_lab.records.profiles import PROFILES
from nngpt_lab.records.results import Results

EVERY = [(profile, name) for profile, known in STUDIES.items() for name in known]


def code(number: int) -> str:
    return f"def transform(norm):\n    return {number}"


ARCHIVE = pd.DataFrame({"code": [code(i) for i in range(9)], "score": np.linspace(0.1, 0.9, 9)})


def test_every_profile_has_studies_of_models_that_exist():
    assert STUDIES.keys() == PROFILES.keys()
    for profile, name in EVERY:
        assert STUDIES[profile][name].design.coder == name and name in models.MODELS


@pytest.mark.parametrize(("profile", "name"), EVERY)
def test_arms_differ_in_style_shots_and_tuning_alone(profile, name):
    study = STUDIES[profile][name]
    found = {(style, shots, tuned): design for style, shots, tuned, design in arms(study)}
    assert len(found) == (6 if study.epochs else 4)
    for (style, shots, tuned), design in found.items():
        other = found["direct" if style == "cot" else "cot", shots, tuned]
        same = dataclasses.replace(other, style=style, prompt=design.prompt, pair_prompt=design.pair_prompt)
        assert design == same and design.style == style
        assert design.decoding == study.design.decoding and design.protocol == study.design.protocol
        references = {"transform_code", "accuracy", "addon_transform_code", "addon_accuracy"}
        assert prompt(design.prompt).fields == (references if shots else set())
        assert prompt(design.pair_prompt).fields == {"transform_code", "accuracy"}
        assert (design.epochs, design.samples) == (
            (study.epochs, study.design.samples) if tuned else (1, study.samples)
        )


@pytest.mark.parametrize(("profile", "name"), [("demo", "nano-coder"), ("demo", "SmolLM2-135M")])
def test_both_styles_show_the_same_references(profile, name):
    design = STUDIES[profile][name].design
    shown = []
    for style in prompting_tables.STYLES:
        asked = loop.questions(styled(design, style), ARCHIVE, np.random.default_rng(3))
        shown.append([[one in messages[-1]["content"] for one in ARCHIVE["code"]] for messages in asked])
    assert shown[0] == shown[1] and {sum(one) for one in shown[0]} == {2}
    for style in prompting_tables.STYLES:
        asked = loop.questions(styled(design, style, 0), ARCHIVE, np.random.default_rng(3))
        assert not any("def transform" in messages[-1]["content"] for messages in asked)


def test_studies_are_chosen_and_sized():
    (nano,) = profile_studies("demo", "nano-coder", samples=5, epochs=2, seeds=4)
    assert (nano.samples, nano.epochs, nano.seeds) == (5, 2, 4)
    assert [study.epochs > 0 for study in profile_studies("demo", epochs=3)] == [True, False]  # untuned stays untuned
    assert profile_studies("smoke") == [STUDIES["smoke"]["nano-coder"]]
    with pytest.raises(UsageError, match="did you mean 'nano-coder'"):
        profile_studies("demo", "nano-codr")
    with pytest.raises(UsageError, match="whole number"):
        profile_studies("demo", samples=-1)


def test_a_study_takes_the_loops_numbers_and_says_what_they_replaced():
    own = profile_studies("demo")
    given = profile_studies("demo", rank=8, lr=0.01, lora_epochs=3, temperature=0.5)
    for study, before in zip(given, own, strict=True):
        design = study.design
        assert (design.recipe.rank, design.recipe.lr, design.recipe.epochs) == (8, 0.01, 3)
        assert design.decoding.temperature == 0.5 and design.hash() != before.design.hash()
        assert dataclasses.replace(study, design=before.design) == before
    table = styles.replaced(given, own)
    assert list(table["model"]) == [study.design.coder for study in own for _ in range(3)]
    assert list(table["setting"]) == ["Name", "Decoding", "Recipe"] * 2
    assert table["instead_of"].str.contains("temperature 0.8").tolist() == [False, True, False] * 2
    assert styles.replaced(own, own).empty and profile_studies("demo", rank=None, temperature=None) == own
    with pytest.raises(UsageError, match="temperature of -1"):
        profile_studies("demo", temperature=-1.0)


def test_an_example_of_each_style():
    found = styles.example(STUDIES["demo"]["SmolLM2-135M"].design)
    (direct, plain), (cot, reasoned) = found["direct"], found["cot"]
    assert "Reference 1" in direct and "Briefly analyze" in cot
    assert plain.startswith("<tr>") and reasoned.endswith(plain) and reasoned.startswith("Reference 1 uses")


def test_a_model_that_cannot_be_had_is_left_out_and_named(monkeypatch, tmp_path):
    def load(name, *_, **__):
        if name != "nano-coder":
            raise DataError(f"{name} cannot be fetched", "connect")
        return name

    ran = []

    def run_study(_results, study, seeds, _workers, coder):
        ran.append((coder, list(seeds)))
        return [pd.DataFrame({"model": [study.design.coder]})]

    monkeypatch.setattr(models, "load", load)
    monkeypatch.setattr(styles, "run_study", run_study)
    results = Results(tmp_path, "demo")
    answers, skipped = styles.run_studies(results, profile_studies("demo", seeds=2), first_seed=7)
    assert ran == [("nano-coder", [7, 8])] and list(answers["model"]) == ["nano-coder"]
    assert skipped.to_numpy().tolist() == [["SmolLM2-135M", "SmolLM2-135M cannot be fetched"]]
    with pytest.raises(LabError, match="SmolLM2-135M cannot be fetched"):
        styles.run_studies(results, profile_studies("demo", "SmolLM2-135M"))


# ------------------------------------------------------------------------------------------------------- the whole way

SMALLEST = STUDIES["smoke"]["nano-coder"]
SMALLEST = dataclasses.replace(
    SMALLEST,
    samples=3,
    design=dataclasses.replace(
        SMALLEST.design,
        samples=2,
        start=4,
        decoding=dataclasses.replace(SMALLEST.design.decoding, max_new_tokens=64),
        recipe=dataclasses.replace(SMALLEST.design.recipe, epochs=1),
    ),
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    results = Results(tmp_path_factory.mktemp("prompting"), "smoke")
    return results, styles.run_studies(results, [SMALLEST], workers=1)[0]


def test_every_arm_answers(ran):
    _, answers = ran
    counts = answers.groupby(["style", "shots", "tuned"]).size()
    assert counts.to_dict() == {
        (style, shots, tuned): 4 if tuned else 3
        for style in prompting_tables.STYLES
        for shots, tuned in ((0, False), (2, False), (2, True))
    }
    assert answers["text"].notna().all() and answers["limit"].eq(64).all() and answers["tokens"].le(66).all()
    few = answers[(answers["shots"] == 2) & ~answers["tuned"]]
    assert few["valid"].any() and (few["valid"] == few["status"].isin(["ok", "non_finite", "duplicate"])).all()


def test_both_styles_draw_with_the_same_seeds(ran):
    results, answers = ran
    with Ledger(results.ledger_file) as ledger:
        samples = ledger.table("samples")
    epochs = samples.groupby("run")["sampling_seed"].apply(tuple)
    assert len(epochs) == 8 and set(epochs.value_counts()) <= {
        2,
        4,
    }  # a pair of styles; zero- and few-shot share theirs
    assert set(samples["text"]) == set(answers["text"])


def test_texts_belong_to_their_codes(ran):
    from nngpt_lab.candidates.extract import extract
    from nngpt_lab.candidates.outcome import Kind
    from nngpt_lab.corpora.code import code_hash

    _, answers = ran
    assert [code_hash(extract(text, Kind.AUGMENTATION).code) for text in answers["text"]] == list(answers["code_hash"])


def test_repeating_it_reads_back_the_same(ran):
    results, answers = ran
    pd.testing.assert_frame_equal(styles.run_studies(results, [SMALLEST], workers=1)[0], answers)


def test_its_tables_can_be_made(ran):
    _, answers = ran
    rows = prompting_tables.described(prompting_tables.after_tuning(answers))
    assert len(rows) == len(answers) - 4
    tests = prompting_tables.paired_tests(rows)
    assert set(prompting_tables.verdicts(tests)["model"]) == {"nano-coder"}
