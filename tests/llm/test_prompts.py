"""Prompts: the exact text that a model sees, and training texts that begin exactly as sampling does.

The golden files are rewritten by: python tests/llm/test_prompts.py
"""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nngpt_lab.ground.errors import UsageError
from nngpt_lab.llm import prompts
from nngpt_lab.llm.prompts import encode, encode_pair, prompt

GOLDEN = Path(__file__).parent / "golden" / "prompts"
CODE = 'import torch\n\nd = {"a": 1}  # $accuracy ${dataset} {accuracy} %s \\n\n'
VALUES = {
    **{"dataset": "CIFAR-10", "shape": "3x32x32", "max_parameters": 500_000, "accuracy_percent": "47.78"},
    **{"accuracy": 0.4, "transform_code": CODE, "addon_accuracy": 0.51, "addon_transform_code": "def transform(): ..."},
    **{"nn_code": CODE, "epoch": 5, "dataset_1": "svhn", "dataset_2": "mnist", "norm_acc_1": 0.91, "norm_acc_2": 1.0},
    **{"nn_code_1": CODE, "nn_code_2": "class Net(nn.Module): ...", "layers": "1 nn.Conv2d(3, 16, 3)"},
    **{"form": "a unified diff", "error": "no edit: the answer holds no code"},
    **{
        f"{what}_{i}": 10 * i
        for what in ("img_size", "num_channels", "num_classes", "num_train_images")
        for i in (1, 2)
    },
}


def rendered(name: str) -> str:
    wanted = prompt(name)
    values = {field: value for field, value in VALUES.items() if field in wanted.fields}
    messages = wanted.messages(**values, **wanted.draw(np.random.default_rng(0)))
    return "".join(f"<{message['role']}>\n{message['content']}\n</{message['role']}>\n" for message in messages)


# -------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("name", sorted(prompts.files()))
def test_the_rendered_text_is_exactly_this(name):
    assert rendered(name) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def test_every_golden_file_has_its_prompt():
    assert sorted(path.stem for path in GOLDEN.glob("*.txt")) == sorted(prompts.files())


def test_every_prompt_says_where_it_comes_from_and_shows_no_header():
    for name in sorted(prompts.files()):
        wanted = prompt(name)
        assert len(wanted.source) > 20
        assert prompts.MARK not in (wanted.system or "") + wanted.user


def test_the_papers_forms_are_the_user_message_alone_and_the_variants_differ_in_the_system_message_only():
    for name in sorted(prompts.files()):
        if name.endswith("_system"):
            paper = prompt(name.removesuffix("_system"))
            assert paper.system is None and prompt(name).system
            assert paper.user == prompt(name).user
    assert prompt("architecture_paper").system is None and prompt("architecture_authors").system


def test_values_pass_through_untouched():
    nasty = "{accuracy} $accuracy ${accuracy} \\1 \\g<0> %d \u00e9\n$$"
    content = prompt("transform_direct_train").messages(accuracy=0.5, transform_code=nasty)[0]["content"]
    assert f"<tr>{nasty}</tr>" in content
    assert "(Accuracy: 0.5)" in content


def test_a_missing_or_unknown_field_is_named():
    with pytest.raises(UsageError, match="lacks max_parameters and has no parameters"):
        prompt("architecture_nano").messages(dataset="digits", parameters=1)


@pytest.mark.parametrize("value", [None, {"a": 1}, True, ["x"]])
def test_what_is_neither_text_nor_a_number_is_refused(value):
    with pytest.raises(UsageError, match="field dataset"):
        prompt("architecture_nano").messages(dataset=value, max_parameters=1)


def test_numpy_numbers_are_numbers():
    text = prompt("architecture_nano").messages(dataset="digits", max_parameters=np.int64(7))[0]["content"]
    assert text == "Design a network for digits with at most 7 parameters."


def test_an_unknown_prompt_names_the_nearest():
    with pytest.raises(UsageError, match=r"did you mean 'architecture_paper'.* or a text file of your own"):
        prompt("architecture_papr")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"#: source: x\n#: user\nuse $undeclared", r"wrong.txt .* used: it uses \$undeclared and does not declare"),
        (b"#: source: x\n#: fields: absent\n#: user\nhello", r"its text has no \$absent"),
        (b"#: source: x\n#: system\nno user", "no text stands below a line `#: user`"),
        (b"Write a network.", "no text stands below a line `#: user`"),
        (b"#: source: x\n#: unheard of\n#: user\nhello", "what does '#: unheard of' mean"),
        (b"\xff\xfe", "wrong.txt cannot be read: it is not UTF-8 text"),
        (None, "wrong.txt cannot be read: No such file"),
    ],
)
def test_a_file_that_is_wrong_does_not_load_and_says_why(text, why, tmp_path):
    if text is not None:
        (tmp_path / "wrong.txt").write_bytes(text)
    with pytest.raises(UsageError, match=why):
        prompt(str(tmp_path / "wrong.txt"))


def test_the_hash_is_of_what_a_model_sees():
    parse = functools.partial(prompts._parse, "p")
    plain = parse("#: source: here\n#: user\nhello")
    assert parse("#: source: there\n#: user\n\nhello\n").sha256 == plain.sha256
    assert parse("#: source: here\n#: user\nhello.").sha256 != plain.sha256
    assert parse("#: system\nhello\n#: user\nhello").sha256 != plain.sha256


def test_draws_are_seeded_vary_and_come_from_the_file():
    wanted = prompt("architecture_paper")
    first, again, other = (wanted.draw(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first == again != other
    for field, (count, options) in wanted.choices.items():
        drawn = first[field].split(", ")
        assert len(set(drawn)) == len(drawn) == count
        assert set(drawn) <= set(options)


def test_prompts_need_neither_torch_nor_transformers():
    code = "import sys; from nngpt_lab.llm import prompts; prompts.prompt('architecture_paper'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers"} & set(loaded)


# ------------------------------------------------------------------------------------------------------------- tokens

# The shapes of the models' templates: who may speak, what begins and ends a turn, and what stands around an answer.
CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe helpful<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
THINKING = CHATML.replace("assistant\n", "assistant\n<think>\n")
LLAMA_2 = (
    "{% if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + (system if loop.first else '') + "
    "m.content.strip() + ' [/INST]' }}{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
MISTRAL = (  # the system's text only where the last message is the user's: it is gone once there is an answer
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content + '\n\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set system = '' %}{% endif %}{{ bos_token }}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + (system if loop.last else '') + m.content + "
    "'[/INST]' }}{% else %}{{ ' ' + m.content|trim + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{{ bos_token }}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content|trim }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% if messages[0].role != 'system' %}{{ 'You are an AI programming assistant\n' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == 'user' %}"
    "{{ '### Instruction:\n' + m.content + '\n' }}{% else %}{{ '### Response:\n' + m.content + '\n<|EOT|>\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '### Response:' }}{% endif %}"
)
NANO = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
ENDLESS = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{{ 'assistant: ' if add_generation_prompt }}"
)
TEMPLATES = {  # template, its special tokens (begin, end of text or turn, others), what ends a training text
    "chatml": (CHATML, ("<|endoftext|>", "<|im_end|>", "<|im_start|>"), "<|im_end|>"),
    "thinking": (THINKING, ("<|endoftext|>", "<|im_end|>", "<|im_start|>"), "<|im_end|>"),
    "llama-2": (LLAMA_2, ("<s>", "</s>"), " </s>"),
    "mistral": (MISTRAL, ("<s>", "</s>", "[INST]", "[/INST]"), "</s>"),
    "gemma": (GEMMA, ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<end_of_turn>"),
    "deepseek": (DEEPSEEK, ("<begin>", "<|EOT|>"), "\n<|EOT|>"),
    "nano": (NANO, ("<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"), "<|end|>"),
    "endless": (ENDLESS, ("<s>", "</s>"), "</s>"),
}
# Runs of line ends, blanks and letters are tokens, so that tokens would like to span the end of a prompt
TEXTS = [
    "\n\n\n\n    def forward(self, x):\n        return x\n" * 8,
    "```python\nimport torch\n```\n\n",
    "### : \n " * 9,
]
QUESTION = [{"role": "user", "content": "Design a network."}]
WITH_SYSTEM = [{"role": "system", "content": "Be brief."}, *QUESTION]
both_forms = pytest.mark.parametrize("messages", [QUESTION, WITH_SYSTEM], ids=["user", "system"])


@functools.cache
def tokenizer(kind: str, metaspace: bool = False):
    """A byte-level vocabulary of 400 tokens, or one that marks blanks as SentencePiece does."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    template, special, _ = TEMPLATES[kind]
    backend = Tokenizer(models.BPE())
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if metaspace:
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(prepend_scheme="first"), decoders.Metaspace()
        alphabet = [chr(code) for code in range(32, 127)] + ["\n"]
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(TEXTS, trainer)
    # A tokenizer of its own adds a beginning; a template writes it too. Only one of them may.
    backend.post_processor = processors.TemplateProcessing(
        single=f"{special[0]} $A", special_tokens=[(special[0], backend.token_to_id(special[0]))]
    )
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=special[0], eos_token=special[1])
    made.add_special_tokens({"additional_special_tokens": list(special[2:])})
    made.chat_template = template
    return made


@pytest.mark.parametrize("kind", TEMPLATES)
@both_forms
def test_a_training_text_is_the_prompt_the_answer_and_the_end_of_the_turn(kind, messages):
    coder = tokenizer(kind)
    ids, length = encode_pair(coder, messages, "```python\nx = 1\n```")
    assert ids[:length] == encode(coder, messages)
    learnt = coder.decode(ids[length:], skip_special_tokens=False)
    end = TEMPLATES[kind][2]
    assert learnt.endswith(f"```python\nx = 1\n```{end}")
    glue = {"deepseek": "\n", "llama-2": " ", "mistral": " ", "thinking": "\n</think>\n\n"}.get(kind, "")
    assert learnt == f"{glue}```python\nx = 1\n```{end}"


@pytest.mark.parametrize("kind", TEMPLATES)
@both_forms
def test_the_prompt_says_all_there_is_to_say_once(kind, messages):
    coder = tokenizer(kind)
    ids = encode(coder, messages)
    text = coder.decode(ids, skip_special_tokens=False)
    for message in messages:
        assert text.count(message["content"]) == 1
    assert ids.count(coder.bos_token_id) == ("bos_token" in coder.chat_template)


def test_templates_without_a_place_for_a_system_message_get_its_text_before_the_users():
    for kind in ("mistral", "gemma"):
        assert "Be brief.\n\nDesign a network." in tokenizer(kind).decode(encode(tokenizer(kind), WITH_SYSTEM))
    for kind in ("chatml", "llama-2", "deepseek"):
        assert "Be brief.\n\nDesign" not in tokenizer(kind).decode(encode(tokenizer(kind), WITH_SYSTEM))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(TEMPLATES)), st.text(max_size=60), st.text(alphabet="\n #:a`", max_size=12), st.booleans()
)
def test_any_answer_survives_and_the_prompt_is_untouched_by_it(kind, text, edge, system):
    coder, response = tokenizer(kind), edge + text.encode("utf-8", "ignore").decode() + edge
    messages = WITH_SYSTEM if system else QUESTION
    ids, length = encode_pair(coder, messages, response)
    assert ids[:length] == encode(coder, messages)
    learnt = coder.decode(ids[length:], skip_special_tokens=False)
    assert learnt.endswith(response + TEMPLATES[kind][2])
    special = prompts._special_ids(coder)
    assert [index in special for index in ids[length:]].count(True) == 1  # the end, and nothing before it


@pytest.mark.parametrize("kind", TEMPLATES)
def test_an_answer_that_spells_a_special_token_does_not_end_there(kind):
    coder = tokenizer(kind)
    for token in TEMPLATES[kind][1]:
        ids, length = encode_pair(coder, QUESTION, f"x = '{token}'\n")
        assert f"x = '{token}'\n" in coder.decode(ids[length:], skip_special_tokens=False)
        special = prompts._special_ids(coder)
        assert [position for position, index in enumerate(ids) if index in special][-1] == len(ids) - 1
        assert not special.intersection(ids[length:-1])


def test_a_token_never_spans_the_end_of_the_prompt():
    coder = tokenizer("chatml")
    spanning = coder("assistant\n\n\n\n    def", add_special_tokens=False)["input_ids"]
    apart = [coder(text, add_special_tokens=False)["input_ids"] for text in ("assistant\n", "\n\n\n    def")]
    assert spanning != apart[0] + apart[1], "this vocabulary would not show it"
    ids, length = encode_pair(coder, QUESTION, "\n\n\n    def")
    assert ids[:length] == encode(coder, QUESTION)
    assert ids[length:-1] == apart[1]


def test_a_sampled_answer_that_has_the_templates_line_break_already_gets_no_second_one():
    coder = tokenizer("deepseek")
    assert encode_pair(coder, QUESTION, "\nx") == encode_pair(coder, QUESTION, "x")


def test_an_answer_with_a_thought_of_its_own_keeps_it():
    coder, sampled = tokenizer("thinking"), "two blocks are enough\n</think>\nimport torch"
    ids, length = encode_pair(coder, QUESTION, sampled)
    assert coder.decode(ids[length:], skip_special_tokens=False) == sampled + "<|im_end|>"


def test_blanks_marked_as_sentencepiece_does_are_those_of_the_whole_text():
    coder = tokenizer("mistral", metaspace=True)
    ids, length = encode_pair(coder, QUESTION, "def forward")
    assert ids[:length] == encode(coder, QUESTION)
    whole = coder("<s>[INST] Design a network.[/INST] def forward</s>", add_special_tokens=False)["input_ids"]
    assert ids == whole


def test_a_tokenizer_without_a_chat_template_is_refused():
    from transformers import PreTrainedTokenizerFast

    base = PreTrainedTokenizerFast(tokenizer_object=tokenizer("nano").backend_tokenizer)
    with pytest.raises(UsageError, match="no chat template"):
        encode(base, QUESTION)
    with pytest.raises(UsageError, match="no chat template"):
        encode_pair(base, WITH_SYSTEM, "x")


def with_template(template: str, **tokens):
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer("nano").backend_tokenizer, **tokens)
    made.chat_template = template
    return made


def test_a_template_whose_prompt_is_not_how_its_text_begins_is_refused():
    different = "{% if add_generation_prompt %}ask{% else %}train {{ messages[-1].content }}{% endif %}"
    with pytest.raises(UsageError, match="not how its full text begins"):
        encode_pair(with_template(different), QUESTION, "x")


def test_a_template_that_refuses_the_messages_says_why():
    refusing = "{{ raise_exception('only poems') }}"
    with pytest.raises(UsageError, match="only poems"):
        encode(with_template(refusing), QUESTION)


def test_an_answer_that_nothing_ends_is_refused():
    with pytest.raises(UsageError, match="an answer is over"):
        encode_pair(with_template("{% for m in messages %}{{ m.content }}{% endfor %}"), QUESTION, "x")


if __name__ == "__main__":
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for each in sorted(prompts.files()):
        (GOLDEN / f"{each}.txt").write_text(rendered(each), encoding="utf-8")
