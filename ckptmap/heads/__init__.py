"""Heads: what `from_pretrained` will load, miss, ignore and initialise, told before any weight is read.

`classes` lists the classes of a family, `library` asks transformers what a class expects, `cache` keeps the answer,
`prediction` works out a load from it, `reports` puts it into words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from ckptmap.checkpoint import Checkpoint, Source, open_checkpoint
from ckptmap.errors import ArchitectureError, CheckpointError
from ckptmap.heads import cache
from ckptmap.heads.classes import TESTED, InternalsChangedError, every_class, family, library_version, module_of
from ckptmap.heads.inventory import ClassInventory
from ckptmap.heads.prediction import Prediction, predict
from ckptmap.heads.quantized import fold_companions
from ckptmap.heads.reports import Coverage, HeadReport, HeadsReport, head_report
from ckptmap.heads.rules import Shape
from ckptmap.stages import tell

__all__ = ["Coverage", "HeadReport", "HeadsReport", "architectures", "class_inventory", "heads", "stored_head"]


NO_CONFIG = "has no config.json to tell its family; give one with --config FILE, or --model-type TYPE"


def heads(
    checkpoint: Source | Checkpoint,
    classes: Iterable[str] | None = None,
    config_overrides: Mapping[str, Any] | None = None,
    key_mapping: Mapping[str, str] | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    all_classes: bool = False,
    use_cache: bool = True,
    in_child: bool = False,
) -> HeadsReport:
    """Say for each head class of a checkpoint's family what loading the checkpoint into it would do.

    Args:
        checkpoint: A checkpoint, or anything that `open_checkpoint` opens.
        classes: Names of transformers classes; by default those that the auto tables have for the model type.
        config_overrides: What `from_pretrained` would be given beside the config: `{"num_labels": 5}`.
        key_mapping: What `from_pretrained` would be given as `key_mapping`.
        config: A config.json's content; by default the one beside the checkpoint.
        all_classes: Also the public classes of the modeling files that no auto table names.
        use_cache: Whether inventories of classes may be read from and kept on disk.
        in_child: Import transformers in a process of its own, not in this one.

    Raises:
        CheckpointError: The checkpoint cannot be opened, or has no config.
        ArchitectureError: transformers does not know the model type, or a class that was asked for by name.
    """
    opened = checkpoint if isinstance(checkpoint, Checkpoint) else open_checkpoint(checkpoint)
    config = opened.config if config is None else config
    if config is None:
        raise CheckpointError(NO_CONFIG, source=opened.source)
    model_type = _model_type(config, opened.source)
    shapes, notes = _shapes(opened, config)
    asked_by_name = classes is not None
    key_mapping = _checked_mapping(key_mapping)
    names = classes if classes is not None else every_class(model_type) if all_classes else family(model_type)
    answers: dict[str, tuple[ClassInventory, Prediction]] = {}
    skipped: dict[str, str] = {}
    asked = list(dict.fromkeys(names))
    for number, name in enumerate(asked):
        tell(f"what {name} expects", number, len(asked))
        try:
            answers[name], note = _answer(
                name, shapes, config, config_overrides or {}, key_mapping, use_cache, in_child
            )
        except ArchitectureError as error:
            if asked_by_name:
                raise
            skipped[name] = str(error)
        else:
            notes = tuple(dict.fromkeys((*notes, *note)))
    if not answers and skipped:
        more = f" (and {len(skipped) - 1} more classes)" if len(skipped) > 1 else ""
        raise ArchitectureError(f"no class of the family can be built: {next(iter(skipped.values()))}{more}")
    inventories = {name: inventory for name, (inventory, _) in answers.items()}
    own_config = opened.config or config
    for name in architectures(own_config):
        if name not in inventories:
            # Only to tell what the tensors belong to that a class asked for by name does not use.
            with suppress(ArchitectureError, InternalsChangedError, CheckpointError):
                inventories[name] = class_inventory(name, own_config, {}, None, use_cache=use_cache, in_child=in_child)
    owners = _owners(inventories, architectures(own_config))
    reports = {name: head_report(*answer, owners) for name, answer in answers.items()}
    return HeadsReport(opened.source, model_type, f"transformers {library_version()}", reports, skipped, notes)


def stored_head(
    checkpoint: Checkpoint, *, config: Mapping[str, Any] | None = None, use_cache: bool = True
) -> tuple[str, ...]:
    """Names of the file that the family's base model has no use for: the head that is stored.

    Raises:
        CheckpointError: The checkpoint has no config.
        ArchitectureError: transformers does not know the model type.
    """
    config = checkpoint.config if config is None else config
    if config is None:
        raise CheckpointError(NO_CONFIG, source=checkpoint.source)
    base = family(_model_type(config, checkpoint.source))[0]
    report = heads(checkpoint, [base], config=config, use_cache=use_cache)[base]
    unused = {name for originals in report.spellings.values() for name in originals}
    return tuple(name for name in checkpoint if name in unused)


def _answer(
    name: str,
    shapes: Mapping[str, Shape | None],
    config: Mapping[str, Any],
    overrides: Mapping[str, Any],
    key_mapping: Mapping[str, str] | None,
    use_cache: bool,
    in_child: bool,
) -> tuple[tuple[ClassInventory, Prediction], tuple[str, ...]]:
    """What a class expects and what loading would do, with a note when the usual way was not to be had."""
    release = library_version()
    try:
        inventory = class_inventory(name, config, overrides, key_mapping, use_cache=use_cache, in_child=in_child)
        tested = release.startswith(tuple(f"{minor}." for minor in TESTED))
        note = () if tested else (f"compared with transformers {', '.join(TESTED)}; {release} may load otherwise",)
        return (inventory, predict(inventory, shapes)), note
    except InternalsChangedError as changed:
        from ckptmap.heads.public_road import load_in_public

        module = module_of(name, _model_type(config, name))
        answer = load_in_public(name, module, config, overrides, key_mapping, shapes)
        return answer, (
            f"transformers {release} is not made as expected here ({changed}); it was asked by really loading, which "
            "does not tell tensors that it initialises without a word",
        )


def class_inventory(
    name: str,
    config: Mapping[str, Any],
    overrides: Mapping[str, Any],
    key_mapping: Mapping[str, str] | None,
    *,
    use_cache: bool = True,
    in_child: bool = False,
) -> ClassInventory:
    """What a class expects, from the disk or from transformers.

    Raises:
        ArchitectureError: There is no such class, or it cannot be built from the config.
        InternalsChangedError: This release of transformers is not made as expected.
    """
    bare = {field: value for field, value in config.items() if field != "quantization_config"}
    key = cache.cache_key(name, bare, overrides, key_mapping)
    found = cache.cached(key) if use_cache else None
    if found is None:
        module = module_of(name, _model_type(config, name))
        if in_child:
            from ckptmap.heads.child import inventory_from_child

            found = inventory_from_child(module, name, bare, overrides, key_mapping)
        else:
            from ckptmap.heads import library

            cls = library.model_class(module, name)
            found = library.inventory_of(library.build(cls, library.class_config(cls, bare, overrides)), key_mapping)
        if use_cache:
            cache.keep(key, found)
    return found


def _model_type(config: Mapping[str, Any], source: str) -> str:
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise CheckpointError("its config.json names no model_type; give it with --model-type TYPE", source=source)
    return model_type


def _checked_mapping(key_mapping: Mapping[str, str] | None) -> Mapping[str, str] | None:
    for pattern, target in (key_mapping or {}).items():
        try:
            re.compile(pattern)
            compiled = re.compile(f"(?P<g0>{pattern})")  # what the loader makes of it
        except re.error as error:
            raise ArchitectureError(f"key mapping: {pattern!r} is not a regular expression ({error})") from None
        if not isinstance(target, str):
            raise ArchitectureError(f"key mapping: {pattern!r} becomes {target!r}, which is not text")
        # It also reads a group in a target as the first group of its pattern.
        if (r"\1" in target or re.search(r"\(.+?\)", target)) and compiled.groups < 2:
            raise ArchitectureError(f"key mapping: {pattern!r} has no group for {target!r} to repeat")
    return key_mapping


def _shapes(checkpoint: Checkpoint, config: Mapping[str, Any]) -> tuple[Mapping[str, Shape | None], tuple[str, ...]]:
    shapes = {name: spec.shape for name, spec in checkpoint.items()}
    method = config.get("quantization_config")
    return fold_companions(shapes, method) if isinstance(method, Mapping) else (shapes, ())


def architectures(config: Mapping[str, Any]) -> list[str]:
    """The classes that a checkpoint was saved from, as its config says."""
    named = config.get("architectures")
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def _owners(inventories: Mapping[str, ClassInventory], first: Iterable[str]) -> Mapping[str, str]:
    """The class that a name belongs to: one of the first classes before the others."""
    owners: dict[str, str] = {}
    for name in dict.fromkeys((*(name for name in first if name in inventories), *inventories)):
        for tensor in inventories[name].shapes:
            owners.setdefault(tensor, name)
    return owners
