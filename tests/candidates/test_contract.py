"""The contracts: each rule by a network that only just breaks it, what must be let through, and all published code."""

from __future__ import annotations

import ast
import subprocess
import sys
from textwrap import dedent, indent

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nngpt_lab.candidates.contract import MAX_CHARACTERS, Inspection, check
from nngpt_lab.candidates.outcome import Kind
from nngpt_lab.sandbox.status import Status
from tests.helpers.work import calls

IMPORTS = "import torch\nimport torch.nn as nn\n\n"
HYPERPARAMETERS = "def supported_hyperparameters():\n    return {'lr', 'momentum'}\n\n"
INIT = "    def __init__(self, in_shape, out_shape, prm, device):\n        super().__init__()\n"
FORWARD = "    def forward(self, x):\n        return x\n"
SETUP = "    def train_setup(self, prm):\n        self.lr = prm['lr']\n"
LEARN = "    def learn(self, train_data):\n        for inputs, labels in train_data:\n            pass\n"
CLASS = "class Net(nn.Module):\n" + INIT + FORWARD + SETUP + LEARN
NET = IMPORTS + HYPERPARAMETERS + CLASS
TRANSFORM = "def transform(norm):\n    return norm\n"


def broken(code: str, kind: Kind = Kind.ARCHITECTURE) -> list[str]:
    """Names of the rules that it breaks."""
    found = check(code, kind)
    assert found.status == (Status.CONTRACT if found.violations else Status.OK)
    return [violation.rule for violation in found.violations]


def net(old: str, new: str) -> str:
    """The good network with one thing changed."""
    assert NET.count(old) == 1, old
    return NET.replace(old, new)


def test_good_code_passes():
    assert check(NET, Kind.ARCHITECTURE) == Inspection(Status.OK)
    assert check(TRANSFORM, Kind.AUGMENTATION) == Inspection(Status.OK)
    assert check(NET, Kind.ARCHITECTURE).message == ""


def test_the_message_names_place_cause_and_cure():
    assert check(net(LEARN, ""), Kind.ARCHITECTURE).message == (
        "line 7: class Net has no method learn(self, train_data): add it; "
        "it trains one epoch on batches of (inputs, labels)"
    )
    assert check(net("in_shape, out_shape, prm, device", "in_shape, num_classes"), Kind.ARCHITECTURE).message == (
        "line 8: __init__() is called with 4 arguments, but takes at most 2: "
        "define it as __init__(self, in_shape, out_shape, prm, device)"
    )
    assert check("class MyNet: pass", Kind.ARCHITECTURE).message == (
        "there is no class Net (there is MyNet): define class Net(nn.Module) at the top level; "
        "there is no function supported_hyperparameters() at the top level: define it; "
        "it returns the names of the hyperparameters that are used, as {'lr', 'momentum'}"
    )
    assert "\n" not in check("x = (\n", Kind.ARCHITECTURE).message


# ---- the network's methods -------------------------------------------------------------------------------------------

METHODS = {"__init__": INIT, "forward": FORWARD, "train_setup": SETUP, "learn": LEARN}


@pytest.mark.parametrize("name", METHODS)
def test_a_missing_method(name):
    assert broken(net(METHODS[name], "")) == [name]


@pytest.mark.parametrize("name", METHODS)
def test_an_asynchronous_method_and_a_generator_run_nothing(name):
    assert broken(net(f"    def {name}(", f"    async def {name}(")) == [name]
    assert broken(net(METHODS[name], METHODS[name] + "        yield 1\n")) == [name]
    assert broken(net(METHODS[name], METHODS[name] + "        print((yield))\n")) == [name]
    harmless = "        (lambda: (yield))\n        def inner():\n            yield\n"
    assert broken(net(METHODS[name], METHODS[name] + harmless)) == []


# Signatures of learn that the call net.learn(train_data) fits, and that it does not.
FITS = ["self, train_data", "self, loader", "self, train_data, epoch=0", "self, *args", "*args", "*args, **kwargs",
        "self, train_data, /", "self, train_data, *, epoch=0", "self, train_data, *rest", "self, train_data=None",
        "this: 'Net', data: list, **options"]  # fmt: skip
MISFITS = ["", "self", "train_data", "self, train_data, epoch", "self, *, train_data", "self, train_data, *, epoch",
           "*, self", "self, **kwargs", "self, a, b, c=1"]  # fmt: skip


@pytest.mark.parametrize("signature", FITS)
def test_a_signature_that_fits(signature):
    assert broken(net("self, train_data", signature)) == []


@pytest.mark.parametrize("signature", MISFITS)
def test_a_signature_that_does_not_fit(signature):
    assert broken(net("self, train_data", signature)) == ["learn"]


def test_the_check_of_signatures_agrees_with_python():
    for signature in FITS + MISFITS:
        scope: dict = {}
        exec(f"class A:\n def learn({signature}): pass", scope)
        try:
            scope["A"]().learn([])
            fits = True
        except TypeError:
            fits = False
        assert (broken(net("self, train_data", signature)) == []) == fits, signature


def test_static_and_class_methods_and_decorators():
    def learn(definition: str) -> list[str]:
        return broken(net(LEARN, indent(definition, "    ") + "\n        pass\n"))

    assert learn("@staticmethod\ndef learn(train_data):") == []
    assert learn("@staticmethod\ndef learn(self, train_data):") == ["learn"]
    assert learn("@classmethod\ndef learn(cls, train_data):") == []
    assert learn("@classmethod\ndef learn(train_data):") == ["learn"]
    assert learn("@torch.enable_grad()\ndef learn(self, anything, at, all):") == []  # left to the sandbox
    assert learn("@wrapped\nasync def learn():") == []


def test_forward_must_return():
    assert broken(net("        return x\n", "        x * 2\n")) == ["forward"]
    assert broken(net("        return x\n", "        return\n")) == ["forward"]
    assert broken(net("        return x\n", "        def inner():\n            return x\n")) == ["forward"]
    assert broken(net("        return x\n", "        if x:\n            return x\n")) == []


def test_methods_from_elsewhere():
    base = IMPORTS + HYPERPARAMETERS + "class Base(nn.Module):\n" + FORWARD + SETUP + LEARN
    assert broken(base + "class Net(Base):\n" + INIT) == []
    assert broken(base + "class Middle(Base): pass\nclass Net(object, Middle):\n" + INIT) == []
    assert broken(base + "class Net(nn.Module):\n" + INIT) == ["forward", "train_setup", "learn"]
    assert broken(base + "class Net(Base):\n" + INIT + LEARN.replace(", train_data", ", *, train_data")) == ["learn"]
    assert broken(net(LEARN, "") + "def f(self, d): pass\nNet.learn = f\n") == []
    assert broken(net(LEARN, "    learn = print\n")) == []
    assert broken(net(LEARN, "    learn = lambda self, train_data: None\n")) == []
    assert broken(net(LEARN, "    learn = lambda train_data: None\n")) == ["learn"]
    assert broken(net(LEARN, "    if torch:\n" + indent(LEARN, "    "))) == []
    assert broken(net(FORWARD, FORWARD.replace("forward", "__call__"))) == []
    assert broken(net(INIT, INIT.replace("__init__", "__new__"))) == []


SETUP_AND_LEARN = "def _setup(self, prm): pass\ndef _learn(self, data): pass\n"
PATCH = "    cls.train_setup, cls.learn = _setup, _learn\n    return cls\n"
UNSEEN = {  # ways by which train_setup and learn come to be there; {} is the class without them
    "a decorator of the file": "def trainable(cls):\n" + PATCH + "@trainable\n{}",
    "a decorator of a library": "from lab import trainable\n@trainable\n{}",
    "a call": "from lab import trainable\n{}trainable(Net)\n",
    "a call whose result is the class": "from lab import trainable\n{}Net = trainable(Net)\n",
    "a decorated base": "from lab import trainable\n@trainable\nclass Base(nn.Module): pass\n{base}",
    "a metaclass": "from lab import Trainable\nclass Base(nn.Module, metaclass=Trainable): pass\n{base}",
    "__init_subclass__": "class Base(nn.Module):\n    def __init_subclass__(cls):\n" + indent(PATCH, "    ") + "{base}",
    "__getattr__": "class Base(nn.Module):\n    def __getattr__(self, name): return print\n{base}",
    "setattr": "{}setattr(Net, 'train_setup', _setup)\nsetattr(Net, 'learn', _learn)\n",
    "setattr in a loop": "{}for name in ('train_setup', 'learn'): setattr(Net, name, globals()['_' + name])\n",
    "an assignment to several": "{}Net.train_setup, Net.learn = _setup, _learn\n",
    "several in the class": "{}    train_setup, learn = _setup, _learn\n",
    "an object's own": "{own}",
}  # fmt: skip


@pytest.mark.parametrize("name", UNSEEN)
def test_what_the_text_does_not_show_is_left_to_the_sandbox(name):
    bare = "class Net(nn.Module):\n" + INIT + FORWARD
    own = bare.replace("super().__init__()\n", "super().__init__()\n        self.train_setup = self.learn = print\n")
    made = UNSEEN[name].replace("{base}", bare.replace("nn.Module", "Base")).replace("{own}", own).replace("{}", bare)
    assert broken(IMPORTS + HYPERPARAMETERS + SETUP_AND_LEARN + made) == []
    assert broken(IMPORTS + HYPERPARAMETERS + SETUP_AND_LEARN + bare) == ["train_setup", "learn"]


def test_a_function_that_a_call_has_made_of_one_is_left_to_the_sandbox():
    cached = "import functools\ndef _names(a, b, c): pass\nsupported_hyperparameters = functools.cache(_names)\n"
    assert broken(IMPORTS + CLASS + cached) == []
    assert broken("def build(): pass\ntransform = wrapped(build)", Kind.AUGMENTATION) == []
    assert broken("transform = wrapped(3)", Kind.AUGMENTATION) == ["transform"]


# ---- the class -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "base",
    ["torch.nn.Module", "nn.modules.Module", "nn.modules.module.Module", "nn.Module, object", "object, nn.Module"],
)
def test_names_of_the_base(base):
    assert broken(net("nn.Module", base)) == []
    assert broken(net("nn.Module", base).replace(FORWARD, "").replace(INIT, "")) == ["__init__", "forward"]


@pytest.mark.parametrize(
    ("imports", "base"),
    [("from torch import nn as layers", "layers.Module"), ("from torch.nn import Module as M", "M"),
     ("import torch.nn", "torch.nn.Module"), ("import torch as t\nBase = t.nn\nB = Base.Module", "B"),
     ("try:\n    from torch.nn import Module\nexcept ImportError:\n    Module = None", "Module"),
     ("from torch.nn import *", "Module"), ("import torch\n(nn, F) = torch.nn, 1", "nn.Module"),
     ("import torch\nfor nn in [torch.nn]: pass", "nn.Module"),
     ("import torch\nfrom typing import Generic\nG = Generic[int]", "torch.nn.Module, G"),
     ("def make(): pass", "make()")],
)  # fmt: skip
def test_ways_to_come_by_the_base(imports, base):
    assert broken(f"{imports}\n{HYPERPARAMETERS}{CLASS}".replace("nn.Module):", f"{base}):")) == []


def test_a_library_class_may_bring_constructor_and_forward_but_not_the_training():
    code = "from torchvision.models import ResNet\n" + HYPERPARAMETERS + "class Net(ResNet):\n"
    assert broken(code + SETUP + LEARN) == []
    assert broken(code + "    pass\n") == ["train_setup", "learn"]


@pytest.mark.parametrize("bases", ["", "()", "(object)", "(dict)", "(Exception)"])
def test_a_class_that_is_no_module(bases):
    assert broken(net("(nn.Module)", bases)) == ["base"]


def test_a_base_that_is_not_defined():
    found = check(HYPERPARAMETERS + CLASS, Kind.ARCHITECTURE)
    assert [v.rule for v in found.violations] == ["base"] and "add import torch.nn as nn" in found.message
    assert broken(net("nn.Module", "Net")) == ["base"]  # no class inherits from itself
    assert broken(net("nn.Module", "Later") + "class Later(nn.Module): pass\n") == ["base"]
    assert broken(f"{HYPERPARAMETERS}{CLASS}import torch.nn as nn\n") == ["base"]


PARTS = IMPORTS + HYPERPARAMETERS


@pytest.mark.parametrize(
    "code",
    [PARTS, PARTS + "def make():\n" + indent(CLASS, "    "), PARTS + "class Outer:\n" + indent(CLASS, "    "),
     PARTS + CLASS.replace("Net", "net"), PARTS + "if __name__ == '__main__':\n" + indent(CLASS, "    "),
     PARTS + "from elsewhere import Net\n", PARTS + "import Net\n", PARTS + "Net = nn.Sequential(nn.Flatten())\n",
     PARTS + "def Net(in_shape, out_shape, prm, device):\n    return nn.Flatten()\n",
     PARTS + CLASS + "Net = Net((1,), (1,), {}, None)\n", PARTS + "'''\n" + CLASS + "'''\n",
     PARTS + "Net: nn.Module\n"],
)  # fmt: skip
def test_no_class_net_where_an_importer_finds_it(code):
    assert broken(code) == ["Net"]


@pytest.mark.parametrize(
    "code",
    [PARTS + "if torch:\n" + indent(CLASS, "    "), PARTS + "if __name__ != '__main__':\n" + indent(CLASS, "    "),
     PARTS + "try:\n" + indent(CLASS, "    ") + "except ImportError:\n    pass\n",
     PARTS + "if 0:\n    pass\nelse:\n" + indent(CLASS, "    "),
     PARTS + "with torch.no_grad():\n" + indent(CLASS, "    "),
     PARTS + "match 1:\n    case _:\n" + indent(CLASS, "        "),
     PARTS + CLASS.replace("Net", "Foo") + "Net = Foo\n",
     PARTS + CLASS.replace("Net", "Foo") + "Bar = Foo\nNet: type = Bar\n",
     PARTS + "class Net(nn.Module): pass\n" + CLASS, PARTS + CLASS + "class Net(Net): pass\n",
     PARTS + "@decorated\n" + CLASS, NET.replace("\n", "\r\n"), NET.replace("\n", "\r"), NET.replace("    ", "\t"),
     NET + "x = '\\d'\n", "\f" + NET],
)  # fmt: skip
def test_a_class_net_that_an_importer_finds(code):
    assert broken(code) == []


def test_the_last_of_two_counts():
    assert broken(NET + "class Net(nn.Module): pass\n") == list(METHODS)
    assert broken(NET + "def supported_hyperparameters(trial): return trial\n") == ["supported_hyperparameters"]


# ---- the functions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "definition",
    ["", "supported_hyperparameters = {'lr'}\n", "from elsewhere import supported_hyperparameters\n",
     "def supported_hyperparameters(self):\n    return {'lr'}\n",
     "def supported_hyperparameters(*, kind):\n    return {'lr'}\n",
     "async def supported_hyperparameters():\n    return {'lr'}\n", "def supported_hyperparameters():\n    pass\n",
     "class A:\n    def supported_hyperparameters():\n        return {'lr'}\n"],
)  # fmt: skip
def test_supported_hyperparameters(definition):
    assert broken(IMPORTS + CLASS + definition) == ["supported_hyperparameters"]


def test_supported_hyperparameters_in_other_forms():
    for definition in ("(kind=None):\n    return ['lr']", "(*args):\n    return {'lr'}", "():\n    yield 'lr'"):
        assert broken(f"{IMPORTS}{CLASS}def supported_hyperparameters{definition}\n") == []
    assert broken(f"{IMPORTS}{CLASS}supported_hyperparameters = lambda: ['lr']\n") == []


@pytest.mark.parametrize(
    "code",
    ["def transform(norm): return norm", "def transform(mean_std): return mean_std",
     "def transform(norm=None): return norm", "def transform(*args): return args",
     "def transform(norm, /): return norm", "transform = lambda norm: norm",
     "def build(norm): return norm\ntransform = build", "@cached\ndef transform(): pass",
     "def transform(norm):\n    if norm:\n        return 1\n    raise ValueError",
     "if True:\n    def transform(norm): return norm"],
)  # fmt: skip
def test_a_transform(code):
    assert broken(code, Kind.AUGMENTATION) == []


@pytest.mark.parametrize(
    "code",
    ["x = 1", '"""def transform(norm): return norm"""', "def transform(): return 1",
     "def transform(image, norm): return norm", "def transform(*, norm): return norm",
     "def transform(norm, *, size): return norm", "def transform(norm): norm", "def transform(norm): return",
     "def transform(norm): yield norm", "async def transform(norm): return norm", "transform = lambda: 1",
     "import torchvision\ntransform = torchvision.transforms.Compose([])", "def Transform(norm): return norm",
     "class transform:\n    def __init__(self, norm): pass", "class A:\n    def transform(norm): return norm",
     "if __name__ == '__main__':\n    def transform(norm): return norm", NET],
)  # fmt: skip
def test_not_a_transform(code):
    assert broken(code, Kind.AUGMENTATION) == ["transform"]


# ---- what does not parse, and what would break a checker -------------------------------------------------------------


@pytest.mark.parametrize("code", ["", " \n\t\n", "# only a comment", "#" * 1000, "\f"])
@pytest.mark.parametrize("kind", Kind)
def test_no_code(code, kind):
    found = check(code, kind)
    assert found.status == Status.NO_CODE and len(found.violations) == 1


@pytest.mark.parametrize(
    "code",
    ["def transform(norm)\n    return norm", "x = 1\0", "\ud800", "    " + TRANSFORM, "if 1:\n\tx = 1\n        y = 2\n",
     "\ufeff" + TRANSFORM,  # Python takes a mark at the head of a file, not of a string
     "(" * 10_000, "(" * 10_000 + ")" * 10_000, "-" * 100_000 + "1", "x" + ".a" * 99_000, "1" + " + 1" * 49_000,
     "if a: pass\n" + "elif a: pass\n" * 15_000, "lambda: " * 10_000 + "1", "x = " + "9" * 5_000, "f'" + "{" * 1000,
     "".join(" " * depth + "if a:\n" for depth in range(200)) + " " * 200 + "pass",
     "\\\n", "print 'Python 2'", "Here is the code:\n" + TRANSFORM],
)  # fmt: skip
@pytest.mark.parametrize("kind", Kind)
def test_syntax(code, kind):
    found = check(code, kind)
    assert found.status == Status.SYNTAX and len(found.violations) == 1 and found.message


@pytest.mark.parametrize("depth", [50, 150, 400, 900])
def test_what_only_just_parses_is_no_danger(depth):
    deep = " + ".join("1" * depth)
    for code in (
        f"if {deep}: pass\n",
        f"@{'a.' * depth}b\ndef transform(norm): pass\n",
        f"Net = {'a.' * depth}b\n",
        f"class Net({'-' * min(depth, 90)}1): pass\n",
        "if a: pass\n" + "elif a: pass\n" * depth + f"else:\n    {TRANSFORM}",
        "".join(f"class C{i + 1}(C{i}, C{i}): pass\n" for i in range(depth * 3)) + "class Net(C9): pass\n",
        "".join(f"C{i + 1} = C{i}\n" for i in range(depth * 3)) + f"Net = C{depth * 3}\n",
        "Net = Net\n" * depth,
        f"def f(x): return {deep}\n",
    ):
        for kind in Kind:
            assert check(code, kind).status in (Status.CONTRACT, Status.SYNTAX, Status.OK)
            assert check(code + NET, kind).status in (Status.CONTRACT, Status.SYNTAX, Status.OK)


def test_a_lattice_of_classes_is_walked_once():
    lattice = "".join(f"class A{i + 1}(A{i}, B{i}): pass\nclass B{i + 1}(A{i}, B{i}): pass\n" for i in range(200))
    start = "import torch.nn as nn\nclass A0(nn.Module): pass\nclass B0(nn.Module): pass\n"
    assert broken(start + lattice + HYPERPARAMETERS + CLASS.replace("nn.Module", "A200")) == []


def test_long_chains_are_walked_in_linear_time():
    def work(length: int) -> None:
        chain = "".join(f"class C{i + 1}(C{i}): a{i} = 1\n" for i in range(length))
        aliases = f"Net = C{length}\n" + "Net = Net\n" * length
        assert broken(f"{PARTS}class C0(nn.Module): a0 = 1\n{chain}{aliases}") == list(METHODS)

    assert calls(lambda: work(4_000)) < 12 * calls(lambda: work(400))  # linear: 10; quadratic: 100


def test_what_is_longer_than_any_published_source_is_not_parsed():
    longest = "x = 1\n" * (MAX_CHARACTERS // 6)
    assert check(longest, Kind.AUGMENTATION).violations[0].rule == "transform"
    assert check(longest + "y = 1\n" * 6, Kind.AUGMENTATION).violations[0].rule == "length"


def test_nothing_is_executed(capsys):
    check("print('run')\nraise SystemExit\n" + NET, Kind.ARCHITECTURE)
    assert capsys.readouterr().out == ""


@pytest.mark.filterwarnings("error")
def test_odd_escapes_are_not_reported():
    assert check(NET + "x = '\\d'\ny = 1 is 1\n", Kind.ARCHITECTURE).status == Status.OK


LINES = dedent(
    """
    import torch.nn as nn|from torch.nn import *|class Net(nn.Module):|class Net:|class A(Net, B.c):|Net = A|pass|x = 1
    def transform(norm):|def learn(self, *a, b):|async def forward(self):|return x|yield|Net.learn = f|@staticmethod
    if x:|else:|try:|finally:|with x as Net:|for Net in x:|while 1:|match x:|case _:|lambda: 1|del Net|global Net
    def supported_hyperparameters(): return {1}|Net: int = 3|(Net, x), y = z|def __init__(self, a, b, c, d): pass
    """
).replace("\n", "|")  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([*filter(None, LINES.split("|"))])), max_size=25))
def test_any_program_gets_an_answer(lines):
    code = "\n".join("    " * depth + line for depth, line in lines)
    try:
        ast.parse(code)
        parses = True
    except SyntaxError:
        parses = False
    for kind in Kind:
        found = check(code, kind)
        assert (found.status == Status.SYNTAX) == (not parses)
        assert (found.status == Status.OK) == (not found.violations)


@given(st.text(), st.sampled_from(Kind))
def test_any_text_gets_an_answer(text, kind):
    assert check(text, kind).status in (Status.OK, Status.NO_CODE, Status.SYNTAX, Status.CONTRACT)


def test_importing_needs_no_torch():
    code = "import sys, nngpt_lab.candidates.contract, nngpt_lab.candidates.extract; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
