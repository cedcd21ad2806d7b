"""What stands on a side of `remap`: a model, a way to build one, or names with their shapes."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptmap.checkpoint import open_checkpoint
from ckptmap.conversion.reading import is_local
from ckptmap.errors import ArchitectureError, PlanError
from ckptmap.formats.findings import danger_sentence
from ckptmap.infer.unfilled import unfilled
from ckptmap.spec import TensorSpec
from ckptmap.stages import tell

if TYPE_CHECKING:
    import torch

    from ckptmap.infer.findings import Sizes


@dataclass(frozen=True)
class Operand:
    """One side.

    Attributes:
        label: What messages and rule files call it.
        shapes: Shape of every tensor by its name in the state dict, in order.
        module: The model, where it can be run.
        ties: Second names, and the first name of the same tensor.
        buffers: Names of tensors that do not train.
        saved_as: Whether rules shall have the names of the model's checkpoints, which may differ from the module's.
        stored: The checkpoint or state dict, where it holds values.
        local: Whether those are on this machine.
    """

    label: str
    shapes: Mapping[str, Sizes]
    module: torch.nn.Module | None = None
    ties: Mapping[str, str] = field(default_factory=dict)
    buffers: frozenset[str] = frozenset()
    saved_as: bool = False
    stored: Any = None
    local: bool = False
    built: bool = False
    """Whether the model was made for us: nobody else looks at its values."""
    danger: str | None = None
    """What loading its file with pickle would run."""

    def is_buffer(self, name: str) -> bool:
        """Whether this tensor does not train."""
        return name in self.buffers


_NOT_WRITABLE = re.compile(r'[\s{}|,*"]|^(<->)?$')
"""What names in rule files cannot have: it means something there."""


def check_names(sides: tuple[Operand, Operand]) -> None:
    """Refuse tensors that no rule could name.

    Raises:
        PlanError: With one of each side.
    """
    problems = []
    for side in sides:
        name = next(filter(_NOT_WRITABLE.search, side.shapes), None)
        if name is not None:
            problems.append(
                f"{side.label}: tensor {name!r}: rule files cannot write a name with white space, braces, a comma, "
                "`|`, `*` or a double quote, or none. Rename it first, or give a state dict without it."
            )
    if problems:
        raise PlanError(tuple(problems))


def operand(
    source: Any, side: str, arguments: Mapping[str, Any] | None = None, *, memory_names: bool = False
) -> Operand:
    """Resolve what a user gave for a side.

    Args:
        source: A model, `module:callable`, `file.py:callable`, `org/name#Class`, names with specs, or a checkpoint.
        side: What to call it where it has no name of its own.
        arguments: Keyword arguments of the callable, or values of the class's config.
        memory_names: Whether rules shall have the names of the module, not of its checkpoints.

    Raises:
        ArchitectureError: The model cannot be built.
        CheckpointError: The checkpoint cannot be read.
    """
    if isinstance(source, Operand):
        return source
    tell(f"the {side}")
    if hasattr(source, "named_parameters") and hasattr(source, "state_dict"):
        return of_module(source, type(source).__name__)
    if isinstance(source, str) and "#" in source:
        with unfilled():
            module = _of_class(source, arguments or {})
        return replace(of_module(module, source), saved_as=not memory_names, built=True)
    if isinstance(source, str) and is_callable_name(source):
        with unfilled():
            module = _built(source, arguments or {})
        return replace(of_module(module, source), built=True)
    if arguments:
        raise ArchitectureError(f"{source}: takes no arguments; they are for module:callable and org/name#Class")
    if isinstance(source, Mapping):
        shapes = {name: tuple(one.shape) for name, one in source.items()}
        holds = not any(isinstance(one, TensorSpec) or getattr(one, "is_meta", False) for one in source.values())
        return Operand(side, shapes, stored=source if holds else None, local=holds)
    with open_checkpoint(source) as checkpoint:
        shapes = {name: spec.shape for name, spec in checkpoint.items()}
        danger = danger_sentence(checkpoint.findings)
        return Operand(os.fspath(source), shapes, stored=source, local=is_local(checkpoint), danger=danger)


def of_module(module: Any, label: str) -> Operand:
    """A model as a side."""
    tensors = module.state_dict(keep_vars=True)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    first: dict[int, str] = {}
    ties = {name: first[id(t)] for name, t in tensors.items() if first.setdefault(id(t), name) != name}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return Operand(label, shapes, module, ties, frozenset(tensors) - frozenset(parameters))


def is_callable_name(text: str) -> bool:
    """Whether this is `module:callable` or `file.py:callable`."""
    place, colon, name = text.rpartition(":")
    return bool(colon) and name.replace(".", "a").isidentifier() and (place.endswith(".py") or _is_dotted(place))


def _is_dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def called(text: str, arguments: Mapping[str, Any] | None = None) -> Any:
    """What `module:callable` or `file.py:callable` gives; this runs the user's own code, as importing it does.

    Raises:
        ArchitectureError: It cannot be imported, or the call fails.
    """
    place, _, name = text.rpartition(":")
    try:
        found: Any = _imported(place)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:
        where = "" if place.endswith(".py") else "; modules are looked for in this folder and where Python looks"
        raise ArchitectureError(f"{text}: cannot be imported: {type(error).__name__}: {error}{where}") from error
    try:
        # A class has `state_dict` too, and is called like any other builder.
        return found(**(arguments or {})) if isinstance(found, type) or not hasattr(found, "state_dict") else found
    except Exception as error:
        raise ArchitectureError(
            f"{text}: calling it failed: {type(error).__name__}: {error}; arguments are given "
            "with --left-arg NAME=VALUE, --right-arg NAME=VALUE"
        ) from error


def _built(text: str, arguments: Mapping[str, Any]) -> Any:
    module = called(text, arguments)
    if not hasattr(module, "state_dict"):
        raise ArchitectureError(f"{text}: gives {type(module).__name__}, which is no torch.nn.Module")
    return module


def _imported(place: str) -> Any:
    if not place.endswith(".py"):
        if importlib.util.find_spec(place.partition(".")[0]) is None and (here := os.getcwd()) not in sys.path:
            sys.path.append(here)  # last: a file there that bears a library's name is not what libraries import
        return importlib.import_module(place)
    path = Path(place)
    if not path.is_file():
        raise ImportError(f"no file {place}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    spec.loader.exec_module(module)
    return module


def _of_class(text: str, arguments: Mapping[str, Any]) -> Any:
    """A transformers class with the config of a repo or folder, its weights random."""
    from ckptmap.checkpoint import read_config
    from ckptmap.heads.classes import module_of
    from ckptmap.heads.library import class_config, first_line, model_class, quiet

    source, _, name = text.partition("#")
    config = dict(read_config(source) or {})
    if not config:
        raise ArchitectureError(f"{text}: {source} has no config.json to build {name} from")
    cls = model_class(module_of(name, str(config.get("model_type", ""))), name)
    made = class_config(cls, config, arguments)
    with quiet():
        try:
            return cls(made)
        except Exception as error:
            raise ArchitectureError(
                f"{text}: cannot be built from its config ({first_line(error)}); check it"
            ) from None
