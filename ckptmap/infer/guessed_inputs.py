"""Inputs that two models can both be run on, made from their configs and their layers when nobody gives any."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ckptmap.errors import ArchitectureError
from ckptmap.infer.inputs import outputs

if TYPE_CHECKING:
    import torch

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
