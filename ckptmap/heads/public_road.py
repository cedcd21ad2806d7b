"""The same question asked through transformers' public interface, for releases whose internals are not known here."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

from ckptmap.errors import ArchitectureError
from ckptmap.heads.inventory import ClassInventory
from ckptmap.heads.library import backbone_names, base_model, class_config, first_line, model_class, quiet
from ckptmap.heads.prediction import Prediction
from ckptmap.heads.rules import Shape

if TYPE_CHECKING:
    import torch

MAX_PARAMETERS = 300_000_000
"""What is not in the checkpoint is really made by this road: 1.2 GB at the most."""


def load_in_public(
    class_name: str,
    module: str,
    config: Mapping[str, Any],
    overrides: Mapping[str, Any],
    key_mapping: Mapping[str, str] | None,
    checkpoint: Mapping[str, Shape | None],
) -> tuple[ClassInventory, Prediction]:
    """Really load tensors of the checkpoint's names and shapes, that take no memory, and read the library's report.

    Raises:
        ArchitectureError: The class cannot be loaded, or is too large to be loaded for a question.
    """
    import torch

    parameters = sum(prod(shape) for shape in checkpoint.values() if shape)
    if parameters > MAX_PARAMETERS:
        raise ArchitectureError(
            f"{class_name}: this release of transformers must really load it to be asked, and {parameters:,} "
            "parameters are too many for that; install a tested release"
        )
    cls: Any = model_class(module, class_name)
    state = {name: torch.zeros(()).expand(shape or ()) for name, shape in checkpoint.items()}
    try:
        with quiet():
            model, info = cls.from_pretrained(
                None,
                config=class_config(cls, config, overrides),
                state_dict=state,
                key_mapping=dict(key_mapping) if key_mapping else None,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except ArchitectureError:
        raise
    except Exception as error:
        raise ArchitectureError(f"{class_name}: cannot be loaded ({first_line(error)})") from None
    mismatched = frozenset((name, tuple(stored), tuple(wanted)) for name, stored, wanted in info["mismatched_keys"])
    missing = frozenset(info["missing_keys"])
    prediction = Prediction(
        missing=missing,
        unexpected=frozenset(info["unexpected_keys"]),
        mismatched=mismatched,
        new=missing | {name for name, _, _ in mismatched},
        errors={},
        spellings={name: (name,) for name in info["unexpected_keys"]},
        dropped=(),
        stored_ties=(),
    )
    return _described(model, class_name), prediction


def _described(model: Any, class_name: str) -> ClassInventory:
    state: dict[str, torch.Tensor] = model.state_dict(keep_vars=True)
    numbers = {name: number for number, name in enumerate(state)}
    return ClassInventory(
        class_name=class_name,
        base_prefix=model.base_model_prefix,
        is_base=base_model(model) is model,
        shapes={name: tuple(tensor.shape) for name, tensor in state.items()},
        buffers=frozenset(name for name, _ in model.named_buffers()),
        backbone=backbone_names(model, state),
        places=numbers,
        values=numbers,
        ties=(),
        ignore_missing=(),
        ignore_unexpected=(),
        silent_buffers=frozenset(),
        rules=(),
    )
