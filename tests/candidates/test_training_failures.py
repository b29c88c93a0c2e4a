"""How the child types what goes wrong: networks with real mistakes, run as they are, each with torch's own error."""

from __future__ import annotations

import traceback

import pytest
import torch

from nngpt_lab.candidates import training
from nngpt_lab.sandbox.status import Status
from nngpt_lab.sandbox.task import Failure, describe, status_of
from tests.candidates import test_training

network, one_thread, run = test_training.network, test_training.one_thread, test_training.run
# (the layer, what forward does with x of shape 16 x 3 x 32 x 32); without one, forward applies the layer to x
SHAPES = {
    "linear": ("nn.Linear(7, 3)",),
    "linear after flattening": ("nn.Linear(100, 10)", "self.f(x.flatten(1))"),
    "convolution, channels": ("nn.Conv2d(5, 3, 3)",),
    "convolution, kernel": ("nn.Conv2d(3, 3, 40)",),
    "convolution, dimensions": ("nn.Conv2d(3, 3, 3)", "self.f(x.flatten(1))"),
    "convolution, one dimension": ("nn.Conv1d(3, 3, 3)",),
    "convolution, groups": ("nn.Conv2d(3, 4, 3, groups=2)",),
    "transposed convolution": ("nn.ConvTranspose2d(5, 3, 3)",),
    "negative width": ("nn.Linear(3, -3)",),
    "batch norm, channels": ("nn.BatchNorm2d(5)",),
    "batch norm, dimensions": ("nn.BatchNorm1d(3)",),
    "batch norm, a single value": ("nn.BatchNorm1d(3)", "self.f(x[:1, :, 0, 0])"),
    "instance norm, a single value": ("nn.InstanceNorm2d(3)", "self.f(x[:, :, :1, :1])"),
    "instance norm, channels": ("nn.InstanceNorm2d(5, affine=True)",),
    "group norm, groups": ("nn.GroupNorm(2, 5)",),
    "group norm, channels": ("nn.GroupNorm(2, 4)",),
    "layer norm": ("nn.LayerNorm(64)",),
    "prelu": ("nn.PReLU(5)",),
    "pooled to nothing": ("nn.MaxPool2d(2)", "self.f(x[:, :, :1, :1])"),
    "pooling, dimensions": ("nn.MaxPool2d(2)", "self.f(x.flatten(1))"),
    "pooling, padding": ("nn.MaxPool2d(2, padding=2)",),
    "reflection padding": ("nn.ReflectionPad2d(40)",),
    "negative padding": ("nn.ZeroPad2d(-40)",),
    "pixel shuffle": ("nn.PixelShuffle(2)",),
    "unfolding": ("nn.Unfold(50)",),
    "interpolation": ("nn.Upsample((4, 4))", "self.f(x.flatten(1))"),
    "recurrent, width": ("nn.LSTM(5, 3)", "self.f(x.flatten(2))"),
    "recurrent, dimensions": ("nn.LSTM(5, 3)",),
    "recurrent, state": ("nn.GRU(1024, 3)", "self.f(x.flatten(2), torch.zeros(1, 9, 3))"),
    "recurrent cell": ("nn.LSTMCell(5, 3)", "self.f(x[:, 0, 0])"),
    "attention, heads": ("nn.MultiheadAttention(10, 3)",),
    "attention, width": ("nn.MultiheadAttention(16, 4)", "self.f(*[x.flatten(2)] * 3)"),
    "attention, dimensions": ("nn.MultiheadAttention(32, 4)", "self.f(x, x, x)"),
    "transformer": ("nn.TransformerEncoderLayer(16, 4)", "self.f(x.flatten(2))"),
    "vision transformer": ("torchvision.models.VisionTransformer(224, 16, 1, 2, 32, 64)",),
    "embedding": ("nn.Embedding(4, 3)", "self.f(torch.tensor([9]))"),
    "view": ("None", "x.view(len(x), 99)"),
    "view of what is permuted": ("None", "x.permute(0, 2, 3, 1).view(len(x), -1)"),
    "reshape": ("None", "x.reshape(-1, 7)"),
    "expand": ("None", "x.expand(-1, -1, -1, 5)"),
    "flatten": ("nn.Flatten(5)",),
    "unflatten": ("nn.Unflatten(1, (2, 2))",),
    "permute": ("None", "x.permute(0, 2, 1)"),
    "mean over no dimension": ("None", "x.flatten(1).mean([2, 3])"),
    "concatenation": ("None", "torch.cat([x, x[..., 1:]], 1)"),
    "stack": ("None", "torch.stack([x, x[1:]])"),
    "split": ("None", "x.split([2, 2], 1)"),
    "residual": ("nn.Conv2d(3, 3, 3, stride=2)", "x + self.f(x)"),
    "residual in place": ("nn.Conv2d(3, 3, 3, stride=2)", "self.f(x).add_(x)"),
    "matrix product": ("None", "x @ x[..., 1:]"),
    "batch matrix product": ("None", "torch.bmm(x[:, 0], x[:, 0, 1:])"),
    "matrix product, dimensions": ("None", "torch.bmm(x, x)"),
    "einsum": ("None", "torch.einsum('bchw,wk->bchk', x, torch.ones(5, 5))"),
    "einsum, dimensions": ("None", "torch.einsum('bcw,wk->bck', x, torch.ones(32, 5))"),
    "too many indices": ("None", "x[:, 0, 0, 0, 0]"),
    "index": ("None", "x[:, 3]"),
    "unpacking": ("None", "[b * 0 for b, n, c in [x.shape]]"),
    "unpacking less": ("None", "[b * 0 for b, n, c, h, w in [x.shape]]"),
    "fewer rows than labels": ("nn.Linear(32, 10)", "self.f(x[1:, 0, 0])"),
    "too few classes": ("nn.Linear(32, 5)", "self.f(x[:, 0, 0])"),
    "class maps": ("nn.Conv2d(3, 10, 3)",),
    "numpy": ("None", "x + torch.tensor(__import__('numpy').ones(3) + __import__('numpy').ones(4))"),
    "its own check": ("None", "[][0] if x.shape[1] == 1 else self.refuse(x)"),
}
REFUSE = "\n    def refuse(self, x):\n        raise ValueError(f'expected one channel, got {x.shape[1]}')\n"


def attempt(code: str) -> Exception:
    with pytest.raises(Exception) as caught:
        run(code, images=32)
    return caught.value


@pytest.mark.parametrize("name", SHAPES)
def test_sizes_that_do_not_fit(name):
    layer, made, *_ = (*SHAPES[name], "self.f(x)")
    init = f"self.f = {layer}\nself.w = nn.Linear(1, 1)"
    code = network(top="import torchvision", init=init, forward=f"return {made}")
    error = attempt(code.replace("    def train_setup", REFUSE + "    def train_setup"))
    assert isinstance(error, Failure) and error.status == Status.SHAPE, repr(error)
    assert str(error).startswith("candidate.py, line "), error


OTHERS = {
    "a name that is not there": ("None", "self.g(x)"),
    "a type that does not fit": ("nn.Linear('3', 3)",),
    "an argument too few": ("nn.Linear(3)",),
    "nothing to call": ("nn.Sequential(None)",),
    "integers into floats": ("nn.Linear(32, 3)", "self.f(x.long())"),
    "two precisions": ("nn.Linear(32, 3).double()",),
    "labels of another type": ("nn.Linear(32, 10)", "self.loss(self.f(x[:, 0, 0]), torch.zeros(len(x)).int())"),
    "another device": ("None", "x + torch.zeros(3, 32, 32, device='meta')"),
    "no such device": ("nn.Linear(32, 3).to('cuda:99')",),
    "no such padding": ("nn.Conv2d(3, 3, 3, padding='some')",),
    "a probability of three": ("nn.Dropout(3.0)",),
    "a truth value of many": ("None", "x if x > 0 else -x"),
    "one number of many": ("None", "x.item()"),
    "numpy of what needs a gradient": ("nn.Linear(32, 3)", "self.f(x).numpy()"),
    "a leaf changed in place": ("nn.Linear(32, 3)", "self.f.weight.add_(1)"),
    "no gradient": ("None", "x[:, 0, 0, :10] * 1"),
    "a key": ("None", "{}['size']"),
    "division": ("None", "x / (1 // 0)"),
    "an index of a list": ("None", "[][3]"),
    "a number that is none": ("None", "x * int('wide')"),
    "a matrix without inverse": ("None", "torch.linalg.inv(torch.zeros(3, 3))"),
    "an endless recursion": ("None", "self.forward(x)"),
    "missing weights": ("nn.Linear(32, 3)", "self.f.load_state_dict({})"),
    "a check without a word": ("None", "self.check()"),
}
CHECK = "\n    def check(self):\n        assert False\n"


@pytest.mark.parametrize("name", OTHERS)
def test_other_mistakes_are_crashes_of_their_own_type(name):
    layer, made, *_ = (*OTHERS[name], "self.f(x)")
    code = network(init=f"self.f = {layer}\nself.w = nn.Linear(1, 1)", forward=f"return {made}")
    error = attempt(code.replace("    def train_setup", CHECK + "    def train_setup"))
    assert not isinstance(error, Failure) and status_of(error) == Status.CRASH, repr(error)
    assert "candidate.py, line " in describe(error)["traceback"][-300:]


@pytest.mark.parametrize(
    "text",
    [
        "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
        "(when checking argument for argument input in method wrapper_CUDA__cudnn_batch_norm)",
        "Input type (torch.cuda.FloatTensor) and weight type (torch.FloatTensor) should be the same",
        "CUDA error: device-side assert triggered",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.69 GiB of which 1.2 GiB is "
        "free. Including non-PyTorch memory, this process has 22.4 GiB memory in use. If reserved but unallocated "
        "memory is large try setting PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True to avoid fragmentation",
    ],
)
def test_what_a_gpu_says_is_no_shape(text):
    with pytest.raises(torch.OutOfMemoryError), training.typed_failures():
        raise torch.OutOfMemoryError(text)


@pytest.mark.parametrize(
    ("reason", "status"), [(PermissionError(13, "denied"), Status.FORBIDDEN), (MemoryError(), Status.OUT_OF_MEMORY)]
)
def test_a_stronger_reason_is_kept(reason, status):
    with pytest.raises(RuntimeError) as caught, training.typed_failures():
        raise RuntimeError("weights of this size cannot be had") from reason
    assert status_of(caught.value) == status


def test_a_failure_keeps_its_own_status():
    with pytest.raises(Failure) as caught, training.typed_failures():
        raise Failure(Status.CONTRACT, "the sizes of tensors do not fit")
    assert caught.value.status == Status.CONTRACT


def test_a_traceback_names_the_candidates_line_however_deep_torch_is():
    """The error arises eleven of torch's calls below; six are kept."""
    init = "self.f = nn.Sequential(nn.Sequential(nn.Sequential(nn.Embedding(3, 3))))"
    code = network(init=init, forward="return self.f(x)")
    error = attempt(code)
    assert len(traceback.extract_tb(error.__traceback__)) > 11
    line = next(number for number, line in enumerate(code.splitlines(), 1) if "return self.f(x)" in line)
    assert describe(error)["traceback"].endswith(f"candidate.py, line {line}: return self.f(x)\n")


def test_an_error_outside_of_the_candidate_names_no_line_of_it():
    with pytest.raises(ZeroDivisionError) as caught, training.typed_failures():
        raise ZeroDivisionError
    assert not getattr(caught.value, "__notes__", [])
