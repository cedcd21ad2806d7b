"""What transformers does with weight conversions: its own loader, run on a stand-in for the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ckptmap.errors import ExportError
from ckptmap.exports.cases import Case
from ckptmap.exports.names import Renaming
from ckptmap.exports.proof import coded, require
from ckptmap.rules.names import Index, NamePattern
from ckptmap.rules.plan import Plan

if TYPE_CHECKING:
    import torch


def renaming(source: str, target: str) -> Any:
    """A renaming of transformers."""
    from transformers.core_model_loading import WeightRenaming

    return WeightRenaming(source, target)


def require_loads(conversions: Sequence[Any], plan: Plan, target: str) -> None:
    """Load the left side into a model of the right one and save it again.

    **Source**: transformers 5.23, `core_model_loading.py`: `convert_and_load_state_dict_in_model` and
    `revert_weight_conversion`, which are run here.

    Raises:
        ExportError: What arrives, or what is saved, is not what the rules say.
    """
    from transformers import PretrainedConfig
    from transformers.core_model_loading import convert_and_load_state_dict_in_model, revert_weight_conversion
    from transformers.modeling_utils import LoadStateDictConfig

    state, wanted = coded(plan)
    for second, _ in plan.right_ties:
        del wanted[second]  # the model ties them itself
    try:
        with _silence():
            model: Any = _stand_in(wanted)
            model.config = PretrainedConfig()
            model.base_model_prefix = "none.such"
            config = LoadStateDictConfig(weight_mapping=list(conversions))
            convert_and_load_state_dict_in_model(model, dict(state), config)
            saved = revert_weight_conversion(model, model.state_dict())
    except Exception as error:  # whatever the library makes of these names
        raise ExportError(f"{target}: transformers could not run it: {type(error).__name__}: {error}") from error
    require({name: tensor.detach() for name, tensor in model.state_dict().items()}, wanted, target, "loading")
    require(saved, state, target, "saving")


@contextmanager
def _silence() -> Iterator[None]:
    """No progress bars of transformers meanwhile."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _stand_in(tensors: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """A module with parameters of these names, shapes and dtypes."""
    import torch

    root = torch.nn.Module()
    for name, tensor in tensors.items():
        module = root
        *path, last = name.split(".")
        for part in path:
            if part not in module._modules:
                module.add_module(part, torch.nn.Module())
            module = module.get_submodule(part)
        empty = torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)
        module.register_parameter(last, torch.nn.Parameter(empty, requires_grad=False))
    return root


def source_pattern(pattern: NamePattern) -> str:
    """A name as transformers takes it from: a regular expression from the start, its numbers captured."""
    return "^" + regex(pattern, r"(\d+)")


def target_pattern(pattern: NamePattern) -> str:
    """The name that is put there; dots are escaped since it is a regular expression when saving."""
    return regex(pattern, r"\1")


def regex(pattern: NamePattern, number: str) -> str:
    """A name with its dots escaped."""
    segments = ("".join(number if isinstance(p, Index) else str(p) for p in segment) for segment in pattern.segments)
    return r"\.".join(segments)


def touched(entries: Sequence[Renaming]) -> list[Renaming]:
    """Renamings that change anything."""
    return [entry for entry in entries if entry.left != entry.right]


def of_names(case: Case) -> tuple[set[str], set[str]]:
    """Old and new names of a case."""
    return set(case.names(0)), set(case.names(1))
