"""Code out of answers: as written or not at all, whatever the wrapper, and in linear time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nngpt_lab.candidates.extract import Extraction, Source, extract
from nngpt_lab.candidates.outcome import Kind
from tests.helpers.work import growth

NET = "import torch.nn as nn\n\n\nclass Net(nn.Module):\n    def forward(self, x):\n        return x\n"
TRANSFORM = "import torchvision\n\ndef transform(norm):\n    return norm"
BETTER = TRANSFORM.replace("return norm", "return norm  # better")
USAGE = "from net import Net\n\nnet = Net()\nprint(net)"


def of(text: str, kind: Kind = Kind.AUGMENTATION) -> tuple[str, str, bool]:
    found = extract(text, kind)
    return found.code, found.source.value, found.wrapped


# Each wraps code so that it must come back to the character; with the rule that finds it, and whether prose is about.
WRAPPERS = {
    "{}": ("bare", False),
    "```python\n{}\n```": ("fence", False),
    "```py\n{}\n```\n": ("fence", False),
    "```\n{}\n```": ("fence", False),
    "```Python3 \r\n{}\r\n```": ("fence", False),
    "~~~\n{}\n~~~": ("fence", False),
    "````python\n{}\n````": ("fence", False),
    "1. The code:\n   ```python\n{}\n   ```": ("fence", True),
    "Here: ```python\n{}\n``` as asked.": ("fence", True),
    "```python\n{}": ("unclosed fence", False),
    "<tr>{}</tr>": ("tag", False),
    "<nn>{}</nn>": ("tag", False),
    "<nn>\n{}\n</nn>\n": ("tag", False),
    "< tr >{}</ tr >": ("tag", False),
    "<.tr>{}</tr>": ("tag", False),
    "<TR>\n{}\n</TR>": ("tag", False),
    "<tr>\n{}": ("unclosed tag", False),
    "{}</tr>": ("unclosed tag", False),
    "{}</tr></tr>": ("unclosed tag", False),
    "<tr><tr>{}</tr></tr>": ("tag", False),
    "<tr><nn>\n{}\n</nn></tr>": ("tag", False),
    "<tr>\n```python\n{}\n```\n</tr>": ("fence", False),
    "```python\n<tr>\n{}\n</tr>\n```": ("tag", False),
    "<think>\n</think>\n<tr>{}</tr>": ("tag", False),
    "<think>I could write\n```python\ndef transform(x): 1\n```\n</think>\n<tr>{}</tr>": ("tag", True),
    "so I use <tr>.</think>```\n{}\n```": ("fence", True),
    "I put it into <tr> and </tr>, as asked.\n<tr>{}</tr> Done.": ("tag", True),
    "Use <tr> tags, no ``` fences.\n```python\n{}\n```": ("fence", True),
    "<hp>{{'lr': 0.1}}</hp><tr>{}</tr>": ("tag", True),
    "Install it:\n```bash\npip install torch\n```\n```python\n{}\n```\n": ("fence", True),
    "```python\n{}\n```\nUse it:\n```python\nfrom net import Net\n\nnet = Net()\n```": ("fence", True),
    # what models write on the line that opens, and what is left of the one that closes
    '```python title="net.py"\n{}\n```': ("fence", False),
    "```python:models/net.py\n{}\n```": ("fence", False),
    "```{{.python .numberLines}}\n{}\n```": ("fence", False),
    "```{{code-cell}} ipython3\n{}\n```": ("fence", False),
    "``` Python 3\n{}\n```": ("fence", False),
    "- The code:\n\n\t```python\n{}\n\t```": ("fence", True),
    "```python\n{}\n```<|im_end|>": ("fence", True),
    "I skip the <think> step.\n```python\n{}\n```": ("fence", True),
    "```python\n{}\n```\n</think>\n": ("fence", False),
    "[THINK]\n```\ndef transform(x): 1\n```\n[/THINK]\n<tr>{}</tr>": ("tag", True),
    "<|begin_of_thought|>hm<|end_of_thought|>\n<tr>{}</tr>": ("tag", True),
    "<|START_THINKING|>hm<|END_THINKING|><tr>{}</tr>": ("tag", True),
    "\u25c1think\u25b7hm\u25c1/think\u25b7<tr>{}</tr>": ("tag", True),
    "<seed:think>hm</seed:think>\n<tr>{}</tr>": ("tag", True),
    "<reasoning>\n```\nclass Net(a): 1\n```\n</reasoning>\n<tr>{}</tr>": ("tag", True),
}


@pytest.mark.parametrize(("kind", "code"), [(Kind.ARCHITECTURE, NET), (Kind.AUGMENTATION, TRANSFORM)])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_wrapper_gives_back_the_code(wrapper, kind, code):
    assert of(wrapper.format(code), kind) == (code, *WRAPPERS[wrapper])


NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
LINES = st.one_of(
    st.builds("    {} = {}".format, NAMES, st.integers()),
    st.builds("    # {}".format, st.text(st.characters(categories=("L", "Zs", "P"), exclude_characters="`~<"))),
    st.just(""),
    st.builds("    '''{}'''".format, NAMES),
    st.builds("\tif {}:\r".format, NAMES),
)
CODES = st.builds(
    lambda head, body, end: "\n".join((head, "def transform(norm):", *body, "    return norm")) + end,
    st.sampled_from(
        ["import torch", "# mine", '"""A doc\nof two lines."""', "from torchvision import transforms as t"]
    ),
    st.lists(LINES),
    st.sampled_from(["", "\n", "\n\n", "  "]),
)


@given(CODES, st.sampled_from(sorted(WRAPPERS)))
def test_round_trip(code, wrapper):
    assert of(wrapper.format(code)) == (code, *WRAPPERS[wrapper])


PIECES = [
    "```", "```python\n", "~~~\n", "````", "<tr>", "</tr>", "<nn>", "</nn>", "< tr >", "<think>", "</think>", "\n",
    "\r\n", " ", "    ", "import torch", "def transform(norm):", "class Net(", "return 1", "'''", '"""', "Here is", "x",
    "\0", "\ufeff", "\ud800", "\u2028", "é", "# ", "- ", "1. ", "@", "=",
]  # fmt: skip


@given(st.text() | st.lists(st.sampled_from(PIECES), max_size=60).map("".join), st.sampled_from(Kind))
def test_any_text_gives_a_piece_of_itself_or_nothing(text, kind):
    found = extract(text, kind)
    assert isinstance(found, Extraction)
    assert (found.code == "") == (found.source == Source.NONE)
    # line by line, because the marks of a list or a quotation are taken off each line, as CommonMark has it
    assert all(line in text for line in found.code.split("\n")) or "<think" in text.lower()
    assert extract(text, kind) == found


@given(CODES, st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_a_tagged_answer_is_found_after_any_noise(code, noise):
    # an end of thought closes whatever the noise opened; a tag is trusted more than all that noise can fake
    assert extract(f"{noise}</think>\n<tr>{code}</tr>", Kind.AUGMENTATION).code == code


# ---- which of several ------------------------------------------------------------------------------------------------


def test_what_defines_the_answer_wins_over_what_comes_later():
    text = f"```python\n{NET}\n```\n```python\n{USAGE}\n```\n<hp>{{'lr': 1}}</hp>"
    assert of(text, Kind.ARCHITECTURE) == (NET, "fence", True)


def test_the_kind_decides_between_two_tags():
    text = f"<nn>{NET}</nn><tr>{TRANSFORM}</tr>"
    assert of(text, Kind.ARCHITECTURE) == (NET, "tag", True)
    assert of(text, Kind.AUGMENTATION) == (TRANSFORM, "tag", True)


def test_an_answer_whose_opening_mark_was_in_the_prompt():
    assert of(f"{TRANSFORM}\n```\nIt crops, then flips.") == (TRANSFORM + "\n", "bare", True)
    assert of(f"{TRANSFORM}</tr> It crops, then flips.") == (TRANSFORM, "unclosed tag", True)


def test_prose_inside_a_closed_wrapper_is_the_models_own_fault():
    code = f"Here is the code:\n{TRANSFORM}"
    assert of(f"<tr>{code}</tr>") == (code, "tag", False)


def test_the_last_of_equals_wins():
    assert of(f"Reference:\n```\n{TRANSFORM}\n```\nMine:\n```\n{BETTER}\n```")[0] == BETTER
    assert of(f"<tr>{TRANSFORM}</tr><tr>{BETTER}</tr>")[0] == BETTER


def test_a_tag_wins_over_a_later_fence():
    assert of(f"<tr>{BETTER}</tr>\nIt differs from\n```python\n{TRANSFORM}\n```")[:2] == (BETTER, "tag")


def test_a_whole_answer_wins_over_a_later_one_that_was_cut_off():
    assert of(f"```python\n{BETTER}\n```\n### Next\n```python\n{TRANSFORM[:-3]}")[:2] == (BETTER, "fence")
    assert of(f"<tr>{BETTER}</tr>\n<tr>{TRANSFORM[:-3]}")[:2] == (BETTER, "tag")


FRAGMENT = "class Net(nn.Module):\n    # rest unchanged\n    def forward(self, x):\n        return self.drop(x)"
WHOLE = NET.replace("    def forward", "    def __init__(self, a, b, c, d): super().__init__()\n    def forward")
WHOLE += (
    "    def train_setup(self, prm): pass\n    def learn(self, data): pass\ndef supported_hyperparameters(): return 1"
)


@pytest.mark.parametrize(
    "text",
    ["```\n{0}\n```\nFor dropout:\n```\n{1}\n```", "```\n{1}\n```\nIn whole:\n```\n{0}\n```",
     "<nn>{0}</nn>\n<nn>{1}</nn>",
     "{0}\n\nFor dropout:\n```\n{1}\n```", "```\n{0}\n```\nFor dropout:\n```\n{1}"],
)  # fmt: skip
def test_a_fragment_does_not_replace_a_whole_answer(text):
    assert extract(text.format(WHOLE, FRAGMENT), Kind.ARCHITECTURE).code == WHOLE
    assert extract(text.format(FRAGMENT, FRAGMENT), Kind.ARCHITECTURE).code == FRAGMENT


def test_an_answer_that_was_cut_off_is_still_an_answer():
    assert of(f"Draft, then:\n<tr>\n{NET[:-9]}", Kind.ARCHITECTURE) == (NET[:-9], "unclosed tag", True)


def test_code_of_another_kind_is_reported_rather_than_nothing():
    assert of(f"```python\n{NET}\n```") == (NET, "fence", False)


# ---- thoughts --------------------------------------------------------------------------------------------------------


def test_thoughts_are_no_answer():
    assert of(f"<think>\n```python\n{TRANSFORM}\n```") == ("", "none", True)
    assert of(f"<think>{TRANSFORM}</think>I am not sure.") == ("", "none", True)
    assert of(f"```\n{TRANSFORM}\n```\n</think>\n```\n{BETTER}\n```")[0] == BETTER


def test_nested_and_repeated_thoughts():
    assert of(f"<think>a<think>b</think>{BETTER}</think>\n{TRANSFORM}") == ("\n" + TRANSFORM, "bare", True)
    assert of(f"<think>a</think><tr>{TRANSFORM}</tr><think>b")[0] == TRANSFORM
    assert of(f"<THINKING>a</THINKING>{TRANSFORM}") == (TRANSFORM, "bare", True)


def test_a_link_or_an_index_is_no_thought():
    assert of(f"[analysis](a.md)\n<tr>{TRANSFORM}</tr>")[:2] == (TRANSFORM, "tag")
    code = f"thoughts = {{}}\n{TRANSFORM}\nthoughts[reasoning] = transform\n"
    assert of(code) == (code, "bare", False)


# ---- no wrapper ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "before",
    [
        "",
        "Sure!\n\n",
        "Let us think. Crops help:\n- flips too\n\n",
        "1. Plan\nlr = 0.01, m = 1\n",
        "下面是代码：\n\n",
        "<code>\n",
    ],
)
@pytest.mark.parametrize(
    "after",
    ["", "\n\nThis keeps the colours.", "\n\n**Why**: it is fast", "\n- a list\n", "\nNote: it's good", "\n\nDone.",
     "\n</code>",
     "\n\n这个变换保留颜色。", "\n\n完成", "\n\nVoilà ! L'image est conservée.", "\nÇa marche bien", "\n• it flips",
     "\n🚀 it flips",
     "\n1) it flips", "\n| a | b |\n|---|---|", "\n---\n", "</code>", "<|im_end|>", "\n<｜end▁of▁sentence｜>", "</s>",
     "\nFor speed, drop it.", "\nIf it fails:"],
)  # fmt: skip
def test_code_between_prose(before, after):
    found = extract(before + TRANSFORM + after, Kind.AUGMENTATION)
    assert (found.code, found.wrapped) == (TRANSFORM, bool(before or after))
    assert found.source == (Source.PROSE if before or after else Source.BARE)


def test_what_stands_right_above_the_code_belongs_to_it():
    code = f'# My transform\n"""Two\n\nlines here"""\n\n{TRANSFORM}'
    assert of(code) == (code, "bare", False)
    assert of(f"Here it is:\n\n{code}") == (code, "prose", True)


@pytest.mark.parametrize(
    "line",
    [
        "a, b = 1, 2",
        "x: int = 3",
        "for a in b: pass",
        "assert norm",
        "print(norm)",
        "a if b else c",
        "# a b",
        '"a b"',
        "@a",
        "model(norm)",
        "transform(",  # with an error in it, but no prose
        "x = transform(",
        "print(transform(1)",
        "print 'Python 2'",
        "class Broken",
        "α = 0.5",
        "*_, last = 1, 2",
        "...",
        "# done</code>",
        "pass",
    ],
)
def test_code_at_the_margin_is_not_prose(line):
    code = f"{TRANSFORM}\n{line}\n"
    assert of(code) == (code, "bare", False)


def test_a_docstring_is_not_prose():
    code = '"""\nThis is a net.\nIt has text in it.\n"""\nimport torch\nX = """\nSome more text\n"""\n' + TRANSFORM
    assert of(code) == (code, "bare", False)


@pytest.mark.parametrize(
    "text",
    ["", " \n", "I cannot help with that.", "class of networks", "import the data from the folder", "<tr></tr>", "<tr>",
     "```", "```\n```", "```bash\npip install torch\n```", "```json\n{\"lr\": 0.1}\n```", "x", "from here to there",
     "def inition", "Accuracy = 0.4", "between <tr> and </tr>"],
)  # fmt: skip
@pytest.mark.parametrize("kind", Kind)
def test_no_code(text, kind):
    code, source, wrapped = of(text, kind)
    assert (code, source) == ("", "none")
    assert wrapped == any(letter.isalnum() for letter in text.replace("<tr>", "").replace("</tr>", ""))


# ---- no repair -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "    def transform(norm):\n        return norm",  # indented as a whole, as in a list
        "def transform(norm):\n\treturn norm\r\n        x",
        "\ufeffdef transform(norm):\r\n    return norm\r\n",
        "def transform(norm:\n    retrun norm))",
        "def transform(norm):\n    return norm  \n\n\n# end",
        "def transform(norm): \0",
    ],
)
def test_faults_stay(code):
    assert of(f"```python\n{code}\n```")[0] == of(f"Well:\n<tr>\n{code}\n</tr>\n")[0] == code


def test_other_fences_within_a_fence_are_code():
    code = "def transform(norm):\n    x = '~~~'\n~~~~ \n    return '``'"
    assert of(f"```python\n{code}\n```")[0] == of(f"~~~~~\n{code}\n~~~~~")[0] == code


def test_pieces_are_not_joined():
    text = "```python\nimport torch\n```\nand\n```python\ndef transform(norm):\n    return norm\n```"
    assert of(text)[0] == "def transform(norm):\n    return norm"


@pytest.mark.parametrize("indent", ["", "  ", "    ", "        "])
def test_a_fence_within_the_code_is_code(indent):
    """Four spaces from CommonMark on; with fewer no reader can know, and it ends the block that it stands in."""
    code = f'def transform(norm):\n    """\n{indent}```\n    transform(1)\n{indent}```\n    """\n    return norm'
    wrappers = ["````python\n{}\n````", "~~~\n{}\n~~~", "<tr>\n{}\n</tr>"]
    for wrapper in wrappers + ["```python\n{}\n```", "{}"] * (len(indent) >= 4):
        assert of(wrapper.format(code))[0] == code


def test_marks_within_a_line_of_code_are_code():
    code = TRANSFORM.replace(
        "import torchvision", 'import torchvision  # no ``` fences\nF = "```"  # and none with ```'
    )
    assert of(f"```python\n{code}\n```") == (code, "fence", False)


@pytest.mark.parametrize("before", ["   ", "1. ", "- ", "> ", "10. ", "- > "])
def test_what_markdown_puts_before_each_line_goes_with_the_block(before):
    fill = before if ">" in before and "-" not in before else " " * len(before)
    fill = "  > " if before == "- > " else fill
    block = "".join(f"{fill}{line}\n" for line in f"```python\n{TRANSFORM}\n```".split("\n"))
    assert of(before + block[len(before) :])[:2] == (TRANSFORM, "fence")


def test_a_closing_mark_that_was_cut_is_no_code():
    assert of(f"```python\n{TRANSFORM}\n`")[0] == of(f"```python\n{TRANSFORM}\n``")[0] == TRANSFORM


def test_a_closing_mark_behind_the_last_line_is_no_code():
    assert of(f"```python\n{TRANSFORM}```\nIt crops.") == (TRANSFORM, "fence", True)
    assert of(f"{TRANSFORM}```\nIt crops.")[0] == of(f"{TRANSFORM}\n```")[0].rstrip() == TRANSFORM


def test_a_block_that_is_opened_anew_had_ended():
    assert of(f"```python\nx = 1\n\n```python\n{TRANSFORM}\n```") == (TRANSFORM, "fence", True)


# ---- work ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unit",
    ["`", "```", "``` ", "~", "~~~\n", "<tr>", "</tr>", "<nn></tr>", "<think>", "</think>", " ", "\n", "\t\n", "\r",
     '"""\n', "class ", "import a as ", "a, ", "a: ", "a.", "    class Net", "```python\n", "``` " + " " * 10**6,
     "import a\n" + "b, " * 10**5, "\n" + " " * 10**6 + "~~~"],
    ids=lambda unit: repr(unit[:12]),
)  # fmt: skip
def test_work_grows_no_faster_than_the_text(unit):
    def work(size: int) -> None:
        extract((unit * (size // len(unit) + 1))[:size] + "x", Kind.ARCHITECTURE)

    assert growth(work, 10**4, 10**5) < 30  # linear: 10; quadratic: 100
    work(10**6)


# ---- the published code ----------------------------------------------------------------------------------------------


FENCED = {  # a docstring of theirs, copied from transformers, holds a fenced example
    "rag-38a8abada35d1af61546d91ee88de111",
    "rag-6990ca825ae1a9dfe75d98d648b211b1",
    "rag-cf9dc0d7db9cb61aeca9102a1f9a016f",
    "rag-d820255594e76adf29ff0e5f37f6aa3c",
    "rag-e7cfe3469378ffc243fe4a1cc9219af1",
}
UNLIKE_CODE = {"rag-7d800e386929acf1f4197b7f3a0c95ae"}  # begins with `try:`


def lost(codes: dict[str, str], wrapper: str, kind: Kind) -> set[str]:
    return {name for name, code in codes.items() if extract(wrapper.format(code), kind).code != code}


def test_lemur_comes_back_from_every_wrapper(lemur):
    nets = lemur.architectures.set_index("name")["code"].to_dict()
    some = {name: nets[name] for name in sorted({*list(nets)[::60], *FENCED, *UNLIKE_CODE})}  # all take a minute
    for wrapper in ("{}", "```python\n{}\n```", "<think>hm</think>Sure:\n<nn>\n{}\n</nn>", "~~~\n{}\n~~~"):
        assert lost(some, wrapper, Kind.ARCHITECTURE) == set()


def test_augmentations_come_back_from_every_wrapper(augmentation_corpus):
    codes = augmentation_corpus.functions.set_index("name")["code"].iloc[::4].to_dict()  # one generator wrote them all
    for wrapper in ("{}", "<tr>{}</tr>", "Sure:\n```python\n{}\n```"):
        assert lost(codes, wrapper, Kind.AUGMENTATION) == set()
