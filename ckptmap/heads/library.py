"""Everything that touches transformers' internals: classes built without values, and the loader's own rules.

Tested with the releases in `classes.TESTED`. Private functions move between releases: an import or an attribute
that does not fit raises `InternalsChangedError`, and `public_road.py` takes over.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ckptmap.errors import ArchitectureError
from ckptmap.heads.bounds import check_counts
from ckptmap.heads.classes import InternalsChangedError, every_class
from ckptmap.heads.inventory import ClassInventory
from ckptmap.heads.rules import OPERATIONS, Rule

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def model_class(module: str, class_name: str) -> type[PreTrainedModel]:
    """A model class of transformers, importing its modeling file only.

    Raises:
        ArchitectureError: There is no such class, or what it needs is not installed.
    """
    try:
        found = getattr(import_module(module), class_name, None)
    except ImportError as error:
        raise ArchitectureError(f"{class_name}: {module} cannot be imported ({error}); install what it needs") from None
    if found is None or not hasattr(found, "config_class"):
        others = ", ".join(every_class(module.split(".")[2]))
        raise ArchitectureError(f"{class_name}: {module} has no such model class; it has {others or 'none'}")
    return found  # type: ignore[no-any-return]


def class_config(
    cls: type[PreTrainedModel], config: Mapping[str, Any], overrides: Mapping[str, Any]
) -> PretrainedConfig:
    """The config that the class's own `from_pretrained` would make of a config.json.

    A class of a part of a composite model (a vision tower) reads its own section of the file, which only its own config
    class knows how to find; so that class reads a real file.

    Raises:
        ArchitectureError: The class cannot make sense of the config.
    """
    config_class: Any = cls.config_class
    if config_class is None:
        raise ArchitectureError(f"{cls.__name__}: the class names no config class")
    if options := sorted(_NOT_OF_CONFIGS & set(overrides)):
        raise ArchitectureError(
            f"{cls.__name__}: {', '.join(options)} is an option of loading, not a field of its config"
        )
    check_counts({**config, **overrides}, cls.__name__)
    with TemporaryDirectory() as folder, quiet():
        (Path(folder) / "config.json").write_text(json.dumps(_without_downloads(dict(config))))
        try:
            made, unused = config_class.from_pretrained(folder, return_unused_kwargs=True, **overrides)
        except Exception as error:
            raise ArchitectureError(
                f"{cls.__name__}: its config cannot be made from config.json ({first_line(error)}); "
                "check the file, and the overrides given"
            ) from None
    made._attn_implementation = "eager"
    known = json.dumps(made.to_dict(), default=str)
    # A field of a part only (a text_config) changes nothing; one that is nowhere is a slip.
    if unknown := [name for name in unused if f'"{name}": ' not in known]:
        raise ArchitectureError(f"{cls.__name__}: its config has no field {', '.join(sorted(unknown))}")
    return made  # type: ignore[no-any-return]


def _without_downloads(part: Any) -> Any:
    """A config, or a part of it, that does not say which code and weights to fetch from the Hub: names need neither.

    **Source**: transformers 5.23.0, `PreTrainedModel._check_and_adjust_attn_implementation`, which gets a kernel for
    `org/repo`, and `backbone_utils.load_backbone`.
    """
    if isinstance(part, list):
        return [_without_downloads(one) for one in part]
    if not isinstance(part, dict):
        return part
    kept = {key: _without_downloads(value) for key, value in part.items() if key not in _CHOOSES_CODE}
    return kept | {"use_pretrained_backbone": False} if "use_pretrained_backbone" in kept else kept


_CHOOSES_CODE = {
    *("attn_implementation", "_attn_implementation", "_attn_implementation_internal"),
    *("experts_implementation", "_experts_implementation", "_experts_implementation_internal"),
    *("auto_map", "kernel_config", "use_kernels"),
}

_NOT_OF_CONFIGS = {
    "cache_dir",
    "force_download",
    "gguf_file",
    "local_files_only",
    "proxies",
    "return_unused_kwargs",
    "revision",
    "subfolder",
    "token",
    "trust_remote_code",
}


def build(cls: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    """The model without values, as the loader builds it: on the meta device, nothing tied.

    Raises:
        ArchitectureError: The class cannot be built from the config.
        InternalsChangedError: The loader builds it in another way than the one known here.
    """
    try:
        import torch

        contexts = cls.get_init_context(torch.float32, False, False, None)
    except (ImportError, AttributeError, TypeError) as error:
        raise InternalsChangedError(str(error)) from None
    with ExitStack() as stack:
        stack.enter_context(quiet())
        for context in contexts:
            stack.enter_context(context)
        try:
            return cls(config)
        except Exception as error:
            raise ArchitectureError(
                f"{cls.__name__}: cannot be built from this config ({first_line(error)}); nor can transformers load it"
            ) from None


def inventory_of(model: PreTrainedModel, key_mapping: Mapping[str, str] | None) -> ClassInventory:
    """What the loader would ask of the model's class, as plain data.

    Raises:
        InternalsChangedError: A rule, an operation or an attribute is not known here.
    """
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping

        transforms = get_model_conversion_mapping(model, dict(key_mapping) if key_mapping else None, None)
        ties = tuple(model.all_tied_weights_keys.items())
        ignore_missing = tuple(sorted(model._keys_to_ignore_on_load_missing or ()))
        ignore_unexpected = set(model._keys_to_ignore_on_load_unexpected or ())
        silent_buffers = frozenset(name for name, _ in model.named_non_persistent_buffers())
    except (ImportError, AttributeError, TypeError) as error:
        raise InternalsChangedError(str(error)) from None
    all_buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    # The loader adds these two by itself. Source: `_adjust_missing_and_unexpected_keys`.
    if any(name.endswith("rotary_emb.inv_freq") for name in all_buffers):
        ignore_unexpected.add(r"rotary_emb\.inv_freq")
    if any(name.endswith("position_ids") for name in all_buffers):
        ignore_unexpected.add(r"(^|\.)position_ids$")
    state = model.state_dict(keep_vars=True)
    place_numbers: dict[object, int] = {}
    value_numbers: dict[int, int] = {}
    places, values = {}, {}
    for name, tensor in state.items():
        owner, _, leaf = name.rpartition(".")
        place = (id(model.get_submodule(owner)), leaf)
        places[name] = place_numbers.setdefault(place, len(place_numbers))
        values[name] = value_numbers.setdefault(id(tensor), len(value_numbers))
    return ClassInventory(
        class_name=type(model).__name__,
        base_prefix=model.base_model_prefix,
        is_base=base_model(model) is model,
        shapes={name: tuple(tensor.shape) for name, tensor in state.items()},
        buffers=frozenset(name for name in state if name in all_buffers),
        backbone=backbone_names(model, state),
        places=places,
        values=values,
        ties=ties,
        ignore_missing=ignore_missing,
        ignore_unexpected=tuple(sorted(ignore_unexpected)),
        silent_buffers=silent_buffers,
        rules=tuple(_rule(transform, model.config) for transform in transforms),
    )


def on_disk(model: PreTrainedModel, state: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors as `save_pretrained` would write them: names and layouts of checkpoints.

    Raises:
        InternalsChangedError: The library's way back is not the one known here.
    """
    try:
        from transformers.core_model_loading import revert_weight_conversion

        with quiet():
            return dict(revert_weight_conversion(model, dict(state)))
    except (ImportError, AttributeError, TypeError, RuntimeError, ValueError) as error:
        raise InternalsChangedError(str(error)) from None


def base_model(model: PreTrainedModel) -> Any:
    """The pretrained part of a head class; the model itself when it is one."""
    return getattr(model, model.base_model_prefix, model) if model.base_model_prefix else model


def backbone_names(model: PreTrainedModel, names: Mapping[str, Any]) -> frozenset[str]:
    """Names below the base model or, for a class without one, below the pretrained models it is made of."""
    from transformers import PreTrainedModel

    base = base_model(model)
    parts = [base] if base is not model else [child for child in model.children() if isinstance(child, PreTrainedModel)]
    if not parts:
        return frozenset(names)
    prefixes = tuple(f"{name}." for name, module in model.named_modules() if any(module is part for part in parts))
    return frozenset(name for name in names if name.startswith(prefixes))


def _rule(transform: Any, config: Any) -> Rule:
    """A transform of the library as plain data."""
    try:
        kind = _KINDS[type(transform).__name__]
        return Rule(
            kind=kind,
            sources=tuple(transform.source_patterns),
            targets=tuple(transform.target_patterns),
            pattern=transform.compiled_sources.pattern,
            scope=transform.scope_prefix,
            base=transform.base_model_prefix,
            offset=transform.offset if kind == "offset" else 0,
            operations=tuple(_operation(operation, config) for operation in getattr(transform, "operations", ())),
        )
    except (KeyError, AttributeError) as error:
        raise InternalsChangedError(f"a rule of kind {type(transform).__name__} is not known here ({error})") from None


_KINDS: Mapping[str, Any] = {
    "WeightRenaming": "rename",
    "PrefixChange": "rename",
    "GroupWeightRename": "group",
    "Inkling2IndexOffsetWeightRename": "offset",
    "WeightConverter": "convert",
}


def _operation(operation: Any, config: Any) -> tuple[str, dict[str, Any]]:
    name = type(operation).__name__
    if name not in OPERATIONS:
        raise InternalsChangedError(f"the operation {name} is not known here")
    if name == "Chunk":
        field = operation.num_shards_attribute
        return name, {"dim": operation.dim, "shards": getattr(config.get_text_config(), field) if field else None}
    if name == "Transpose":
        return name, {"dim0": operation.dim0, "dim1": operation.dim1, "check_dims": operation.check_dims}
    if name == "PermuteForRope":
        section = getattr(config, operation.subconfig_key, config) if operation.subconfig_key else config
        heads = getattr(section, "num_attention_heads", 1)
        names = operation.permute_layer_names
        return name, {"heads": heads, "names": None if names is None else list(names)}
    if name == "ErnieFuseAndSplitTextVisionExperts":
        return name, {"stack_dim": operation.stack_dim, "concat_dim": operation.concat_dim}
    return name, {"dim": operation.dim}


@contextmanager
def quiet() -> Iterator[None]:
    """The library's advice on configs and kernels is for people who load a model, not for those who ask about one."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def first_line(error: Exception) -> str:
    """The first line of what an error of the library says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
