"""Rationales from a template: what they say follows from operations and scores alone, and the code stays findable."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nngpt_lab.candidates.extract import Source, extract
from nngpt_lab.candidates.outcome import Kind
from nngpt_lab.corpora.augmentations import OPERATIONS
from nngpt_lab.ground.errors import UsageError
from nngpt_lab.papers.augmentation_search.rationales import STYLES, answer, rationale

TAIL = "transforms.Resize((64, 64)), transforms.ToTensor(), transforms.Normalize(*norm)"


def code(*steps: str) -> str:
    inner = ", ".join([*(f"transforms.{step}" for step in steps), TAIL])
    return (
        f"import torchvision.transforms as transforms\n\ndef transform(norm):\n    return transforms.Compose([{inner}])"
    )


def test_direct_is_the_code_in_its_tags():
    assert answer("direct", [(code("Grayscale(3)"), 0.4)], code()) == f"<tr>{code()}</tr>"


def test_a_rationale_names_what_is_kept_changed_added_and_avoided():
    references = [
        (code("RandomCrop(24)", "ColorJitter(hue=0.1)"), 0.5237),
        (code("RandomPosterize(bits=4)", "ColorJitter(hue=0.2)"), 0.4),
    ]
    assert rationale(references, code("ColorJitter(hue=0.2)", "RandomCrop(30)", "Grayscale(3)")).splitlines() == [
        "Reference 1 uses RandomCrop and ColorJitter and reaches 0.52.",
        "Reference 2 uses RandomPosterize and ColorJitter and reaches 0.40.",
        "So keep ColorJitter, change RandomCrop, add Grayscale, avoid RandomPosterize.",
    ]


def test_without_operations_it_says_so():
    assert rationale([(code(), 0.61)], code()).splitlines() == [
        "Reference 1 uses no operation and reaches 0.61.",
        "So use no operation.",
    ]
    assert rationale([(code("Grayscale(3)"), 0.61)], code()).endswith("So avoid Grayscale.")


@pytest.mark.parametrize("wrong", ["def transform(norm:", "x = 1", "", "def transform(norm):\n    return norm"])
def test_a_reference_that_cannot_be_read_stops_nothing(wrong):
    said = answer("cot", [(wrong, 0.3), (code("Grayscale(3)"), 0.5)], code("Pad(2)"))
    assert said.startswith("Reference 1 uses no operation and reaches 0.30.\nReference 2 uses Grayscale")


def test_an_operation_that_occurs_twice_is_named_once():
    assert "uses Pad and reaches" in rationale([(code("Pad(1)", "Pad(2)"), 0.5)], code("Pad(2)"))
    assert rationale([(code("Pad(1)", "Pad(2)"), 0.5)], code("Pad(2)", "Pad(1)")).endswith("So keep Pad.")


def test_an_unknown_style_is_refused():
    with pytest.raises(UsageError, match="did you mean 'direct'"):
        answer("dirct", [], code())


PIPELINES = st.lists(st.sampled_from([f"{name}({value})" for name in OPERATIONS for value in (1, 2)]), max_size=3)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(STYLES), st.lists(st.tuples(PIPELINES, st.floats(0, 1)), max_size=2), PIPELINES)
def test_the_code_is_found_again_character_for_character(style, references, wanted):
    given_ = [(code(*steps), score) for steps, score in references]
    found = extract(answer(style, given_, code(*wanted)), Kind.AUGMENTATION)
    assert (found.code, found.source) == (code(*wanted), Source.TAG)
    assert found.wrapped == (style == "cot")
