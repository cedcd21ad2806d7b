"""Inputs that two models can both be run on, made from their configs and their layers when nobody gives any."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptmap.errors import ArchitectureError
from ckptmap.infer.inputs import call_with, outputs

if TYPE_CHECKING:
    import torch

    from ckptmap.infer.inputs import Inputs
    from ckptmap.infer.probe_runs import Runner

TOKENS = (2, 9)
"""Batch and length of the ids that are tried: long enough for tables to be told apart, short enough for any model."""

FIRST_TOKEN = 5
"""Ids below are left out: they are padding and other marks in most vocabularies."""


@dataclass(frozen=True)
class Guess:
    """One kind of input, as a value that both models get, and the ways to hand it over."""

    what: str
    ways: tuple[tuple[str, Runner], ...]


def calls_on(
    inputs: tuple[Inputs, Inputs] | None, left: torch.nn.Module, right: torch.nn.Module, labels: tuple[str, str]
) -> tuple[Runner, Runner]:
    """How to run both models: on the inputs that are given, else on usual ones.

    Raises:
        ArchitectureError: The inputs are none, or none of the usual ones runs both.
    """
    if inputs is None:
        return guessed_calls(left, right, labels)
    return call_with(inputs[0]), call_with(inputs[1])


def guessed_calls(left: torch.nn.Module, right: torch.nn.Module, labels: tuple[str, str]) -> tuple[Runner, Runner]:
    """A call for each side, on the same values, that both models take.

    Raises:
        ArchitectureError: None of the usual inputs runs both; with all that was tried.
    """
    tried: list[str] = []
    for guess in _guesses(left, right):
        found: list[Runner] = []
        for label, module in zip(labels, (left, right), strict=True):
            runner = _first_that_runs(module, guess, label, tried)
            if runner is None:
                break
            found.append(runner)
        if len(found) == 2:
            return found[0], found[1]
    raise ArchitectureError(
        "no usual input runs both models; give --left-inputs and --right-inputs (in Python inputs=(left, right)), each "
        "a dict of keyword arguments, a tuple, or a callable that takes the module. Tried:\n"
        + "\n".join(f"  {line}" for line in tried)
    )


def _first_that_runs(module: torch.nn.Module, guess: Guess, label: str, tried: list[str]) -> Runner | None:
    import torch

    training = module.training
    module.eval()
    try:
        for how, runner in guess.ways:
            try:
                with torch.no_grad():
                    if outputs(runner(module)):
                        return runner
                tried.append(f"{label}({how}), {guess.what}: it returns no floating-point tensor")
            except Exception as error:
                first = (str(error).splitlines() or [""])[0]
                tried.append(f"{label}({how}), {guess.what}: {type(error).__name__}: {first[:240]}")
    finally:
        module.train(training)
    return None


def _guesses(left: torch.nn.Module, right: torch.nn.Module) -> Iterator[Guess]:
    import torch

    tables = [min(rows) for rows in (_largest_table(left), _largest_table(right)) if rows]
    if tables:
        random = torch.Generator().manual_seed(3)
        low = FIRST_TOKEN if min(tables) > 2 * FIRST_TOKEN else 0
        count = TOKENS[0] * TOKENS[1]
        drawn = torch.randperm(max(min(tables) - low, 1), generator=random)
        ids = drawn.repeat(count // len(drawn) + 1)[:count].reshape(TOKENS) + low
        what = f"ids {TOKENS[0]} × {TOKENS[1]}"
        yield Guess(what, _ways(ids, ("input_ids", "ids", "tokens")))
        both: dict[str, Any] = {"input_ids": ids, "decoder_input_ids": ids.flip(1)}
        yield Guess(f"{what}, and ids for the decoder", (("input_ids=, decoder_input_ids=", _by_name(both)),))
        mask = torch.ones(TOKENS, dtype=torch.bool)
        ways = (("ids, mask", _in_order(ids, mask)), *_ways(ids, ("input_ids",)))
        yield Guess(f"{what}, and a mask of ones", ways)
        asked = tuple(one for module in (left, right) for one in _asked_for(module, ids))
        if asked:
            yield Guess(f"{what}, and what arguments ask for by their names", (*_ways(ids, ("input_ids",)), *asked))
        yield Guess(f"{what}, time first", (("ids.T", _in_order(ids.T)), *_ways(ids, ("input_ids",))))
    for size in _image_sizes(left, right):
        pixels = torch.randn(2, *size, generator=torch.Generator().manual_seed(4))
        yield Guess(f"images {' × '.join(map(str, size))}", _ways(pixels, ("pixel_values", "x")))
    waves = torch.randn(2, 800, generator=torch.Generator().manual_seed(5))
    yield Guess("800 samples of sound", _ways(waves, ("input_values",)))
    width = next((tensor.shape[-1] for tensor in left.parameters() if tensor.ndim == 2), 0)
    if width:
        features = torch.randn(*TOKENS, width, generator=torch.Generator().manual_seed(6))
        yield Guess(f"features 2 × 9 × {width}", _ways(features, ("inputs_embeds", "x")))
        yield Guess(f"features 2 × {width}", _ways(features[:, 0], ("x",)))


KINDS = {
    "mask": ("mask", "masks", "pad", "padding"),
    "segments": ("segment", "segments", "seg", "type", "types", "sentence", "tokentype"),
    "positions": ("position", "positions", "pos"),
}
"""Words in the names of arguments, and what they ask for; the last word that says something decides."""


def _asked_for(module: torch.nn.Module, ids: torch.Tensor) -> Iterator[tuple[str, Runner]]:
    """Calls that give every argument without a default what its name asks for: masks of ones, segment 0, 0, 1, …"""
    import torch

    parameters = [
        one
        for one in inspect.signature(module.forward).parameters.values()
        if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) and one.default is one.empty
    ]
    kinds = [_kind_of(one.name, first=number == 0) for number, one in enumerate(parameters)]
    if len(kinds) < 2:
        return
    positions = torch.arange(ids.shape[1]).expand_as(ids)
    for dtype in (torch.long, torch.bool, torch.float32):
        values = {"ids": ids, "mask": torch.ones_like(ids, dtype=dtype), "positions": positions}
        values["segments"] = torch.zeros_like(ids)
        yield ", ".join(kinds), _in_order(*(values[kind] for kind in kinds))


def _kind_of(name: str, *, first: bool) -> str:
    """What an argument of this name is; the first one is the ids, whatever it is called, and most others are masks."""
    if first:
        return "ids"
    for word in reversed(name.lower().split("_")):
        for kind, known in KINDS.items():
            if word in known:
                return kind
    return "mask"


def _ways(value: torch.Tensor, names: tuple[str, ...]) -> tuple[tuple[str, Runner], ...]:
    named = tuple((f"{name}=", _by_name({name: value})) for name in names[:1])
    return (*named, ("one argument", _in_order(value)))


def _by_name(arguments: Mapping[str, Any]) -> Callable[[torch.nn.Module], Any]:
    return lambda module: module(**arguments)


def _in_order(*arguments: Any) -> Callable[[torch.nn.Module], Any]:
    return lambda module: module(*arguments)


def _largest_table(module: torch.nn.Module) -> list[int]:
    """Rows of the embedding that has most: the vocabulary."""
    from torch import nn

    rows = [part.num_embeddings for part in module.modules() if isinstance(part, nn.Embedding)]
    config = getattr(module, "config", None)
    told = getattr(config, "vocab_size", None)
    return [told] if isinstance(told, int) else [max(rows)] if rows else []


def _image_sizes(left: torch.nn.Module, right: torch.nn.Module) -> Iterator[tuple[int, int, int]]:
    from torch import nn

    channels = next((p.in_channels for m in (left, right) for p in m.modules() if isinstance(p, nn.Conv2d)), None)
    if channels is None:
        return
    told = [getattr(getattr(module, "config", None), "image_size", None) for module in (left, right)]
    sizes = [size if isinstance(size, int) else size[0] for size in told if isinstance(size, int | list | tuple)]
    for size in dict.fromkeys([*sizes, 32, 64, 224]):
        yield channels, size, size
