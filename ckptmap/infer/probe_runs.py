"""One differentiable run of a model whose parameters are filled as asked, and what can be read off it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from ckptmap.errors import ArchitectureError

if TYPE_CHECKING:
    import numpy
    import torch

Runner: TypeAlias = "Callable[[torch.nn.Module], Any]"
"""Calls a module on its inputs and gives what it returns."""

Values: TypeAlias = "Mapping[str, numpy.ndarray]"


@dataclass(frozen=True)
class Activation:
    """A tensor that the run produced.

    Attributes:
        place: Where: a submodule's name, or `output` and the path in it.
        tensor: The tensor, with its history.
        output: Whether the model returned it.
    """

    place: str
    tensor: torch.Tensor
    output: bool

    @cached_property
    def moments(self) -> tuple[float, float, float, float]:
        """Mean, root mean square, standard deviation and skewness: a fingerprint that does not depend on order."""
        import torch

        flat = self.tensor.detach().to(torch.float64).flatten()
        finite = flat[torch.isfinite(flat)]
        mean = finite.mean()
        around = finite - mean
        deviation = float(around.square().mean().sqrt())
        skewness = float((around / (deviation or 1.0)).pow(3).mean())
        size = float(finite.square().mean().sqrt())
        return float(mean), size, deviation, skewness


@dataclass(frozen=True)
class Run:
    """A run's leaves and activations, in the order of execution."""

    leaves: Mapping[str, torch.Tensor]
    activations: tuple[Activation, ...]
    lookups: Sequence[tuple[int, torch.Tensor]] = ()
    label: str = "the model"

    def gradients(self, functionals: Sequence[torch.Tensor]) -> dict[str, numpy.ndarray]:
        """Derivative of each functional by every leaf; shape (functionals …) with the leaf's own shape after.

        Raises:
            ArchitectureError: Autograd cannot go through the model.
        """
        import numpy
        import torch

        names = list(self.leaves)
        found: dict[str, list[numpy.ndarray]] = {name: [] for name in names}
        leaves = [self.leaves[name] for name in names]
        for number, functional in enumerate(functionals):
            more = number + 1 < len(functionals)
            try:
                grads = torch.autograd.grad(functional, leaves, retain_graph=more, allow_unused=True)
            except Exception as error:
                what = f"{type(error).__name__}: {error}"[:300]
                raise ArchitectureError(
                    f"{self.label}: it runs, but its derivatives cannot be taken: {what}; custom functions need a "
                    "backward, and values that derivatives need must not be written in place"
                ) from error
            for name, leaf, grad in zip(names, leaves, grads, strict=True):
                value = torch.zeros_like(leaf) if grad is None else grad
                found[name].append(value.detach().to(torch.float64).numpy())
        return {name: numpy.stack(values) for name, values in found.items()}

    def rows_looked_up(self) -> dict[str, numpy.ndarray]:
        """For each leaf that is a table, the rows that were looked up, in order."""
        import numpy
        import torch

        names = {id(leaf): name for name, leaf in self.leaves.items()}
        rows: dict[str, list[torch.Tensor]] = {}
        for table, indices in self.lookups:
            if table in names:
                rows.setdefault(names[table], []).append(indices.reshape(-1))
        return {name: numpy.unique(torch.cat(parts).numpy()) for name, parts in rows.items()}

    def scales(self) -> set[str]:
        """Leaves that are used as factors only: weights of norms, scales of layers."""
        uses = _uses([one.tensor for one in self.activations])
        found = set()
        for name, leaf in self.leaves.items():
            ends = uses.get(id(leaf), set())
            if ends and ends <= _FACTORS:
                found.add(name)
        return found


_FACTORS = {
    ("MulBackward0", 0),
    ("MulBackward0", 1),
    ("NativeLayerNormBackward0", 1),
    ("NativeGroupNormBackward0", 1),
    ("FusedRmsNormBackward0", 1),
}
_TRANSPARENT = ("ToCopy", "View", "UnsafeView", "Reshape", "Expand", "Unsqueeze", "Squeeze", "Alias", "Clone")


def _uses(outputs: Sequence[torch.Tensor]) -> dict[int, set[tuple[str, int]]]:
    """For every leaf, by id, the operations that use it and as which operand, views and casts aside."""
    consumers: dict[Any, list[tuple[Any, int]]] = {}
    stack = [one.grad_fn for one in outputs if one.grad_fn is not None]
    seen = set(stack)
    while stack:
        node = stack.pop()
        for position, (source, _) in enumerate(node.next_functions):
            if source is None:
                continue
            consumers.setdefault(source, []).append((node, position))
            if source not in seen:
                seen.add(source)
                stack.append(source)
    found: dict[int, set[tuple[str, int]]] = {}
    for node in seen:
        variable = getattr(node, "variable", None)
        if variable is None:
            continue
        ends = found.setdefault(id(variable), set())
        open_nodes = list(consumers.get(node, ()))
        while open_nodes:
            user, position = open_nodes.pop()
            kind = user.name()
            if kind.startswith(_TRANSPARENT):
                open_nodes.extend(consumers.get(user, ()))
            else:
                ends.add((kind, position))
    return found


class Subject:
    """A module that can be run again and again with other values in its parameters.

    Args:
        module: The model, on the CPU; it is copied, never changed.
        call: How to run it.
        label: What messages call it.
        tied: Whether tensors that share storage stay one leaf; else each name is a leaf of its own.
        learnt: Buffers that are treated as parameters.
        smooth: Whether rectifiers let a little of everything through while it runs.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        call: Runner,
        label: str,
        *,
        tied: bool = False,
        learnt: frozenset[str] = frozenset(),
        smooth: bool = False,
    ) -> None:
        from ckptmap.infer.running import copy_of

        self.label = label
        self._call = call
        self._smooth = smooth
        self._pristine = copy_of(module).eval()
        plain_experts(self._pristine)
        self._pristine.double()
        self._pristine.requires_grad_(False)
        persistent = self._pristine.state_dict(keep_vars=True)
        self.shapes = {name: tuple(tensor.shape) for name, tensor in persistent.items()}
        parameters = dict(self._pristine.named_parameters(remove_duplicate=False))
        floating = {name: tensor for name, tensor in persistent.items() if tensor.is_floating_point()}
        self.aliases = aliases_of(floating)
        self.same_as = self.aliases if tied else {}
        self._learnt = learnt
        trains = parameters.keys() | learnt
        self.parameters = tuple(name for name in floating if name in trains and name not in self.same_as)
        self.buffers = tuple(name for name in floating if name not in trains and name not in self.same_as)
        self.own = {name: tensor.detach().numpy().copy() for name, tensor in floating.items()}
        for name, value in self.own.items():
            # Statistics of a batch norm say nothing about the architecture: they go where the norm's weight goes.
            if name.endswith(("running_mean", "running_var")):
                value[...] = 0.0 if name.endswith("mean") else 1.0

    def state(self) -> dict[str, torch.Tensor]:
        """All tensors of the module's own, floating-point ones in float64."""
        return {name: tensor.detach().clone() for name, tensor in self._pristine.state_dict().items()}

    @contextmanager
    def rounded_constants(self, ulp: float) -> Iterator[None]:
        """Within, constants that were made in float32 are off by as much as that rounds."""
        with moved_constants(constants_of(self._pristine), ulp):
            yield

    def _filled(self, module: torch.nn.Module, name: str, values: Values) -> tuple[torch.Tensor, torch.Tensor]:
        """Fill a tensor; the leaf that derivatives are taken by, and the tensor that stands in the module."""
        import torch

        leaf = torch.tensor(values[name] if name in values else self.own[name], dtype=torch.float64)
        if name in self._learnt:
            leaf.requires_grad_()
        placed = _place(module, name, leaf, buffer=name in self.buffers or name in self._learnt)
        return placed, placed

    def run(self, values: Values) -> Run:
        """Run with these values; names not among them keep their own.

        Raises:
            ArchitectureError: The model fails, or nothing that it returns depends on its parameters.
        """
        from ckptmap.infer.inputs import outputs
        from ckptmap.infer.running import copy_of, differentiable, double_precision

        module = copy_of(self._pristine)
        leaves: dict[str, torch.Tensor] = {}
        everything: dict[str, torch.Tensor] = {}
        for name in (*self.parameters, *self.buffers):
            leaf, everything[name] = self._filled(module, name, values)
            if leaf.requires_grad:
                leaves[name] = leaf
        for name, first in self.same_as.items():
            _place(module, name, everything[first], buffer=first in self.buffers or first in self._learnt)
        seen: list[tuple[str, torch.Tensor]] = []
        lookups: list[tuple[int, torch.Tensor]] = []
        with ExitStack() as stack:
            for name, part in module.named_modules():
                stack.callback(part.register_forward_hook(note_outputs(name, seen)).remove)
            stack.enter_context(differentiable())
            stack.enter_context(double_precision(lookups, smooth=self._smooth))
            try:
                returned = outputs(self._call(module))
            except Exception as error:
                what = f"{type(error).__name__}: {error}"[:300]
                advice = "say what it is run on with --left-inputs and --right-inputs"
                raise ArchitectureError(f"{self.label}: running it failed: {what}; {advice}") from error
        activations = [_activation(place, tensor, output=False) for place, tensor in numbered(seen)]
        activations += [_activation(f"output {path}".strip(), tensor, output=True) for path, tensor in returned.items()]
        kept = tuple(one for one in activations if one is not None)
        if not kept:
            raise ArchitectureError(
                f"{self.label}: nothing that it returns depends on its parameters; it must return tensors"
            )
        return Run(leaves, kept, lookups, self.label)


def constants_of(module: torch.nn.Module) -> list[torch.Tensor]:
    """Tensors that a run uses as they were built: buffers that are not saved, and others."""
    import torch

    saved = {id(tensor) for tensor in module.state_dict(keep_vars=True).values()}
    found: dict[int, torch.Tensor] = {}
    for part in module.modules():
        for value in (*part._buffers.values(), *vars(part).values()):
            if isinstance(value, torch.Tensor) and value.is_floating_point() and id(value) not in saved:
                found[id(value)] = value
    return [*found.values()]


@contextmanager
def moved_constants(constants: Sequence[torch.Tensor], ulp: float) -> Iterator[None]:
    """Within, these are off by this share, but for numbers that float32 holds exactly."""
    import torch

    random = torch.Generator().manual_seed(5)
    kept = [(tensor, tensor.clone()) for tensor in constants]
    for tensor, before in kept:
        sign = 2.0 * torch.randint(0, 2, before.shape, generator=random) - 1
        tensor.copy_(torch.where(_has_few_digits(before), before, before * (1 + ulp * sign)))
    try:
        yield
    finally:
        for tensor, before in kept:
            tensor.copy_(before)


def _has_few_digits(tensor: torch.Tensor) -> torch.Tensor:
    """Elements that rounding to float32 did not touch, as far as can be told."""
    import torch

    bits = tensor.detach().float().contiguous().view(torch.int32)
    return (bits & 0xFFF) == 0


def plain_experts(module: torch.nn.Module) -> None:
    """Have transformers' experts run one by one: its grouped kernels know no float64."""
    choose = getattr(module, "set_experts_implementation", None)
    if callable(choose):
        choose("eager")


def aliases_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Name and the first name of the tensor it shares everything with."""
    first: dict[int, str] = {}
    return {name: first[id(t)] for name, t in tensors.items() if first.setdefault(id(t), name) != name}


def _place(module: torch.nn.Module, name: str, value: torch.Tensor, *, buffer: bool) -> torch.Tensor:
    """Put a leaf where the module keeps that tensor."""
    import torch

    path, _, last = name.rpartition(".")
    owner = module.get_submodule(path)
    if buffer:
        # A buffer written in place may not be a leaf that asks for its derivative: only constants are followed.
        owner._buffers[last] = value
        return value
    leaf = value if isinstance(value, torch.nn.Parameter) else torch.nn.Parameter(value)
    setattr(owner, last, leaf)
    return leaf


def note_outputs(name: str, seen: list[tuple[str, torch.Tensor]]) -> Callable[[Any, Any, Any], None]:
    """A forward hook that adds a module's outputs, each with its place."""

    def hook(_module: Any, _inputs: Any, output: Any) -> None:
        from ckptmap.infer.inputs import outputs

        seen.extend((f"{name} {path}".strip(), tensor) for path, tensor in outputs(output).items())

    return hook


def numbered(seen: list[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """A module that is called again and again has as many places, from the second on with the call's number."""
    calls: dict[str, int] = {}
    for place, tensor in seen:
        calls[place] = calls.get(place, 0) + 1
        yield (place if calls[place] == 1 else f"{place} #{calls[place]}"), tensor


def _activation(place: str, tensor: torch.Tensor, *, output: bool) -> Activation | None:
    import torch

    if not tensor.requires_grad or tensor.numel() < 1 + (not output):
        return None
    if not bool(torch.isfinite(tensor.detach()).any()):
        return None
    return Activation(place, tensor, output)


def functional(tensors: Sequence[torch.Tensor], channel: int) -> torch.Tensor:
    """A number that depends on the values and not on their order."""
    import torch

    total = torch.zeros((), dtype=torch.float64)
    for number, tensor in enumerate(tensors):
        value = tensor.to(torch.float64)
        value = torch.where(torch.isfinite(value), value, 0.0)
        scaled = value / value.detach().square().mean().sqrt().clamp_min(1e-30)
        wave = torch.sin((0.7 + 0.45 * channel) * scaled + 0.3 + 1.1 * channel + 0.9 * number)
        total = total + wave.sum()
    return total
