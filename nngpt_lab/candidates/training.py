"""The child's side of the proxy: train a candidate for the protocol's epochs, mostly one, and return its predictions.

This is the trusted task that :mod:`nngpt_lab.sandbox.parent` runs in a confined process of its own. It sees the
training labels and the images to predict, never the labels to score against. It follows the authors' evaluator
(nn-dataset 2.1.2, ``ab/nn/util/Train.py``) step by step, but makes whole batches from images that lie in memory.

Candidates use torch's, numpy's and Python's global random state, so it is seeded; the process is theirs alone.
"""

from __future__ import annotations

import contextlib
import linecache
import os
import random
import re
import sys
import time
import traceback
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torchvision  # noqa: F401  imported once, in the zygote: many candidates use it
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

from nngpt_lab.candidates import batched_operations as operations
from nngpt_lab.candidates.batched_transforms import batch_pipeline, pil_pipeline
from nngpt_lab.candidates.outcome import CROWDED, Kind
from nngpt_lab.candidates.protocols import Protocol
from nngpt_lab.candidates.step_count import StepCount
from nngpt_lab.sandbox.status import Status
from nngpt_lab.sandbox.task import Failure, status_of

CANDIDATE, NETWORK = "candidate.py", "network.py"  # what tracebacks call the candidate and the pinned network
SIZES_DO_NOT_FIT = re.compile(  # torch has some hundred sentences for that, which share these words
    r"\b(sizes?|shapes?|dim|dimensions?|channels?|height|width|batch_size|normalized_shape)\b|\b\d-?D\b|"
    r"divisible by|to unpack|running_mean should contain|inconsistent input_size|index k out of range|"
    r"(target|index|indices) .*out of .*bounds|index out of range in self|length must be non-negative",
    re.IGNORECASE,
)
SIZE_ERRORS = (RuntimeError, ValueError, IndexError, AssertionError)
FAR_OVER = 100  # times the protocol's limit: a constructor that has made so many weights does not throw them away
Images: TypeAlias = torch.Tensor  # uint8 (N, C, H, W)
Prepare = Callable[[Images], torch.Tensor]  # -> float32 (N, C, h, w)


def train_and_predict(payload: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> tuple[dict, dict]:
    """Train, predict.

    Args:
        payload: ``code``; ``protocol`` as plain values; ``network``, the pinned network's code for augmentations;
            ``norm``; ``classes``; ``seed``; ``device``; ``gpu_fraction`` of its memory that may be used.
        arrays: ``train_images``, ``predict_images`` (uint8, N, C, H, W) and ``train_labels`` (int64, N); or, from
            :func:`get_ready`, tensors of them on the device.

    Returns parameters, steps, path (how images were prepared) and seconds by stage; ``logits`` float32 (N, classes). A
    Failure has the status that fits; anything else is judged by ``task.status_of``.
    """
    protocol = Protocol.from_dict(payload["protocol"])
    device = torch.device(payload["device"])
    seed, draws, order = (int(seed) for seed in np.random.SeedSequence(payload["seed"]).generate_state(3))
    prepare_torch(device, payload.get("gpu_fraction", 1.0))
    seed_everything(seed)
    images = on_device(arrays, device)
    labels = images["train_labels"]
    clock = Stopwatch(device)
    with typed_failures(), on_a_shared_card(device, payload.get("gpu_fraction", 1.0)), StepCount() as count:
        prepares, path = preparations(payload, protocol, torch.Generator().manual_seed(draws))
        pinned = protocol.kind == Kind.AUGMENTATION
        source = (payload["network"], NETWORK) if pinned else (payload["code"], CANDIDATE)
        in_shape = (protocol.batch, *prepares[0](images["train_images"][:1]).shape[1:])
        net = build(source, protocol, in_shape, payload["classes"], device, seed)
        clock.lap("load")
        orders, steps = torch.Generator().manual_seed(order), 0
        for _ in range(protocol.epochs):
            shuffled = torch.randperm(len(labels), generator=orders).to(device)
            batches = Batches(images["train_images"], labels, shuffled, protocol.batch, prepares[0])
            count.batches.append(batches)
            net.train()
            if pinned:
                check_learn(net)
            net.learn(batches)
            steps += batches.steps
        clock.lap("train")
        logits = predict(net, images["predict_images"], prepares[1], protocol.batch, payload["classes"])
        clock.lap("predict")
        count.check()
    parameters = count_parameters(net)
    check_parameters(parameters, protocol)
    value = {"parameters": parameters, "steps": steps, "path": path, "seconds": clock.seconds}
    return value, {"logits": logits.numpy()}


def get_ready(payload: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> tuple[None, dict[str, torch.Tensor]]:
    """What needs no candidate: start the ``device`` of the payload, train there for a step, and put the arrays on it;
    Failure if CUDA does not start."""
    device = torch.device(payload["device"])
    try:
        prepare_torch(device)
        warm_up(device)
        ready = on_device(arrays, device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()  # a card is shared
    except Exception as error:
        name = type(error).__name__
        raise Failure(Status.CRASH, f"{device.type.upper()} does not start in the sandbox: {name}: {error}") from error
    return None, ready


def on_device(arrays: Mapping[str, Any], device: torch.device) -> dict[str, torch.Tensor]:
    """Arrays as tensors on a device; those that are there already stay what they are."""
    return {name: torch.as_tensor(array, device=device) for name, array in arrays.items()}


class Batches(tqdm):
    """One pass over the training set, in a new order: an iterator of (inputs, labels), already on the device.

    Like the authors' DataRoll it is a progress bar (one that shows nothing), for networks that write to it, and it is
    exhausted after one epoch: a ``learn`` that loops over it twice trains once. One that keeps the batches can train on
    them again, in the authors' evaluator; here see ``step_count``.
    """

    monitor_interval = 0  # no thread that watches the bar

    def __init__(self, images: Images, labels: torch.Tensor, order: torch.Tensor, batch: int, prepare: Prepare):
        self.batch_size, self.steps = batch, 0
        self._parts = order.split(batch)
        self._images, self._labels, self._prepare = images, labels, prepare
        super().__init__(self._parts, disable=True)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return self

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self.steps == len(self._parts):
            raise StopIteration
        part = self._parts[self.steps]
        self.steps += 1
        return self._prepare(self._images[part]), self._labels[part]


# --- images -------------------------------------------------------------------------------------------------------


def preparations(
    payload: Mapping[str, Any], protocol: Protocol, generator: torch.Generator
) -> tuple[list[Prepare], str]:
    """How images become a network's inputs, for training and for prediction, and in a word which path that is."""
    norm = tuple(map(tuple, payload["norm"]))  # as the authors pass it; a parcel holds lists
    if protocol.kind == Kind.ARCHITECTURE:
        clean = fixed(norm, protocol.side, None)
        random_flip = fixed(norm, protocol.side, generator) if protocol.flip else clean
        return [random_flip, random_flip if protocol.augment_predictions else clean], "tensor"
    transform = execute(payload["code"], CANDIDATE).transform(norm)
    if not callable(transform):
        raise Failure(Status.CONTRACT, f"transform(norm) returned a {type(transform).__name__}, nothing to call")
    batched = batch_pipeline(transform)
    if batched is not None:
        return [lambda images: batched(images, generator)] * 2, "batched"
    return [lambda images: pil_pipeline(transform, images)] * 2, "pil"


def fixed(norm, side: int | None, generator: torch.Generator | None) -> Prepare:
    """Resize to ``side`` as PIL does, flip each image at random if there is a generator, scale to [0, 1], normalise."""
    mean, std = norm

    def prepare(images: Images) -> torch.Tensor:
        if side is not None:
            images = operations.resize(images, side, side)
        if generator is not None:
            flips = torch.rand(len(images), generator=generator) < 0.5
            flips = operations.sent(flips, images.device)
            images = torch.where(flips.view(-1, 1, 1, 1), images.flip(3), images)
        shift, scale = (operations.channels(part, torch.float32, images.device) for part in (mean, std))
        return (images.float() / 255 - shift) / scale

    return prepare


# --- the network --------------------------------------------------------------------------------------------------


def execute(code: str, file: str) -> types.ModuleType:
    """Code as a module of its own, with its lines at hand for tracebacks."""
    module = types.ModuleType(file.removesuffix(".py"))
    module.__file__ = file
    sys.modules[module.__name__] = module  # dataclasses and torch.jit look classes up by module
    linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)
    exec(compile(code, file, "exec", dont_inherit=True), module.__dict__)  # not this file's __future__
    return module


def build(
    source: tuple[str, str], protocol: Protocol, in_shape: tuple, classes: int, device: torch.device, seed: int
) -> Any:
    """The ``Net`` of a code and its file's name, ready to learn. Its size is checked before its weights are made."""
    module = execute(*source)
    prm = hyperparameters(module.supported_hyperparameters(), protocol)
    seed_everything(seed)  # whatever was drawn until now, equal seeds give equal weights
    try:
        with far_over_limit(protocol):
            net = module.Net(in_shape, (classes,), prm, device)
    except Exception as error:
        if status_of(error) == Status.OUT_OF_MEMORY:  # the only case in which a constructor is called again
            check_parameters(sketch(module, in_shape, classes, protocol)[0], protocol)
        raise
    check_parameters(count_parameters(net), protocol)
    net.to(device)
    net.train_setup(prm)
    return net


@contextlib.contextmanager
def far_over_limit(protocol: Protocol) -> Iterator[None]:
    """Within, a Failure as soon as modules hold :data:`FAR_OVER` times the weights that the protocol allows, which is
    before most layers fill them: an answer with a width slipped would take minutes and the machine's memory."""
    made, total = set(), 0

    def note(_module, _name, parameter) -> None:
        nonlocal total
        if id(parameter) not in made and not is_lazy(parameter):
            made.add(id(parameter))
            total += parameter.numel()
        if protocol.max_parameters is not None and total > FAR_OVER * protocol.max_parameters:
            check_parameters(total, protocol)

    hook = register_module_parameter_registration_hook(note)
    try:
        yield
    finally:
        hook.remove()


def sketch(module: Any, in_shape: tuple, classes: int, protocol: Protocol) -> tuple[int, bool]:
    """How many weights a module's ``Net`` has, counted without making them (on torch's device ``meta``), and whether
    that is sure: no call of torch failed, as those do there that need real numbers. (0, False) without a network.
    """
    meta = torch.device("meta")
    with contextlib.suppress(Exception), Refusals() as refusals, meta:
        prm = hyperparameters(module.supported_hyperparameters(), protocol)
        return count_parameters(module.Net(in_shape, (classes,), prm, meta)), not refusals.seen
    return 0, False


class Refusals(TorchFunctionMode):
    """Notes whether any call of torch raised, even if the code that called it went on."""

    seen = False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        try:
            return func(*args, **(kwargs or {}))
        except Exception:
            self.seen = True
            raise


def check_learn(net: Any) -> None:
    """Failure if an augmentation has put a ``learn`` of its own in the place of the pinned network's."""
    code = getattr(getattr(net.learn, "__func__", None), "__code__", None)
    if code is None or code.co_filename != NETWORK:
        raise Failure(Status.FORBIDDEN, "the augmentation replaces the network's learn")


def weights(payload: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> tuple[int, dict]:
    """How many weights the network of ``code`` has under ``protocol``, for images of ``classes``; nothing is trained,
    and where the constructor allows it no weight is made, whatever their number."""
    protocol = Protocol.from_dict(payload["protocol"])
    in_shape, classes = (protocol.batch, 3, protocol.side, protocol.side), payload["classes"]
    with typed_failures():
        count, sure = sketch(execute(payload["code"], CANDIDATE), in_shape, classes, protocol)
        if sure:
            return count, {}
        module = execute(payload["code"], CANDIDATE)
        prm = hyperparameters(module.supported_hyperparameters(), protocol)
        return count_parameters(module.Net(in_shape, (classes,), prm, torch.device("cpu"))), {}


def hyperparameters(declared: Any, protocol: Protocol) -> dict[str, Any]:
    """What the network is given: the protocol's values, and a value for whatever else it declares."""
    prm = dict.fromkeys(sorted(map(str, declared)), protocol.other)
    given = {name: getattr(protocol, name) for name in ("lr", "momentum", "dropout", "batch")}
    epochs = {"epoch": protocol.epochs, "epoch_max": protocol.epochs}  # the second in nn-dataset after 2.1.2
    return prm | given | epochs | {"pretrained": 0.0, "transform": f"norm_{protocol.side}"}


def count_parameters(net: Any) -> int:
    """Number of weights; those of lazy layers that have no shape yet count as none."""
    return sum(parameter.numel() for parameter in net.parameters() if not is_lazy(parameter))


def is_lazy(parameter: Any) -> bool:
    """Whether it has no shape before the first batch."""
    return isinstance(parameter, torch.nn.parameter.UninitializedParameter)


def check_parameters(count: int, protocol: Protocol) -> None:
    """Failure if the protocol allows fewer."""
    if protocol.max_parameters is not None and count > protocol.max_parameters:
        message = f"the network has {count:,} parameters, the protocol allows {protocol.max_parameters:,}"
        raise Failure(Status.PARAMETERS, message)


@torch.no_grad()
def predict(net: Any, images: Images, prepare: Prepare, batch: int, classes: int) -> torch.Tensor:
    """Logits float32 (N, classes) in evaluation mode, on the CPU."""
    net.eval()
    parts = []
    for part in images.split(batch):
        outputs = net(prepare(part))
        if not isinstance(outputs, torch.Tensor):
            raise Failure(Status.SHAPE, f"Net returned a {type(outputs).__name__} in evaluation mode, not a tensor")
        if outputs.shape != (len(part), classes):
            raise Failure(
                Status.SHAPE, f"Net returned {tuple(outputs.shape)} for {len(part)} images and {classes} classes"
            )
        parts.append(outputs.to(torch.float32, copy=outputs.is_cuda))  # a network may use its output's memory again
    return torch.cat(parts).cpu()  # once: each time the GPU would have to catch up


# --- the run ------------------------------------------------------------------------------------------------------


def prepare_torch(device: torch.device, gpu_fraction: float = 1.0) -> None:
    """On a GPU, ask for repeatable kernels and take no more than a share of its memory."""
    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(gpu_fraction, device.index)
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # else one more kernel for each new tensor
        warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation")


def seed_everything(seed: int) -> None:
    """Seed the global generators that a candidate's code draws from."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  the candidate's own draws come from there
    torch.manual_seed(seed)


@contextlib.contextmanager
def typed_failures() -> Iterator[None]:
    """Turn what torch says about sizes into Status.SHAPE; everything else keeps its own type."""
    try:
        yield
    except Exception as error:
        place = place_of(error)
        crash = isinstance(error, SIZE_ERRORS) and status_of(error) == Status.CRASH  # not, say, out of memory
        if crash and SIZES_DO_NOT_FIT.search(str(error)):
            text = f"{place}: {error}" if place else f"{type(error).__name__}: {error}"
            raise Failure(Status.SHAPE, text[:400]) from error
        if place:
            error.add_note(place)
        raise


@contextlib.contextmanager
def on_a_shared_card(device: torch.device, gpu_fraction: float) -> Iterator[None]:
    """Name an allocation that failed although this process had room left in its share of a GPU: others filled it."""
    try:
        yield
    except Exception as error:
        of_the_card = status_of(error) == Status.OUT_OF_MEMORY and re.search("CUDA|CUBLAS|cuDNN", str(error))
        if device.type == "cuda" and of_the_card:
            allowed = gpu_fraction * torch.cuda.get_device_properties(device).total_memory
            if torch.cuda.memory_reserved(device) + asked_for(str(error)) <= allowed:
                raise Failure(Status.OUT_OF_MEMORY, f"{CROWDED}: {error}") from error
        raise


def asked_for(message: str) -> float:
    """Bytes of the allocation that a message of torch's is about; 0 where it does not say, as the driver's."""
    found = re.search(r"Tried to allocate ([\d.]+) (bytes|KiB|MiB|GiB)", message)
    return float(found[1]) * 1024 ** ("bytes", "KiB", "MiB", "GiB").index(found[2]) if found else 0.0


def place_of(error: Exception) -> str:
    """The candidate's line where an error arose. Between it and the error lie torch's own calls, often more than are
    kept of a traceback."""
    calls = traceback.extract_tb(error.__traceback__)
    own = [call for call in calls if call.filename in (CANDIDATE, NETWORK)]
    return f"{own[-1].filename}, line {own[-1].lineno}: {own[-1].line}" if own else ""


class Stopwatch:
    """Wall-clock seconds by stage; on a GPU it waits for the queue to empty first."""

    def __init__(self, device: torch.device):
        self.device, self._last = device, time.perf_counter()
        self.seconds: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """End a stage."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[stage] = now - self._last
        self._last = now


def warm_up(device: torch.device | str = "cpu") -> None:
    """Take one step of training, so that what torch prepares on first use is there: in forks of this process, too."""
    layers = (torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten())
    net = torch.nn.Sequential(*layers, torch.nn.Linear(4 * 6 * 6, 10)).to(device)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    logits = net(torch.zeros(2, 3, 8, 8, device=device))
    torch.nn.functional.cross_entropy(logits, torch.zeros(2, dtype=torch.int64, device=device)).backward()
    optimizer.step()


# With a GPU a backward pass starts a thread for each device, and asking torch for one initialises CUDA; neither forks.
if not Path("/dev/nvidiactl").exists() or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
    warm_up()
