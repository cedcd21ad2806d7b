"""Which classes transformers has for a model type, read from its source text: importing it would take seconds."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from ckptmap.errors import ArchitectureError

TESTED = ("5.23",)
"""Releases (major.minor) of transformers that the prediction was compared with."""

# Source: transformers 5.23.0, models/auto/: `modeling_auto.py` has a table of classes for each task, by model type;
# the other two say which folder a model type lives in when it is not its own name.
_CLASS_TABLES = "modeling_auto.py"
_FOLDER_TABLES = ("auto_mappings.py", "configuration_auto.py")
_FOLDER_TABLE = "SPECIAL_MODEL_TYPE_TO_MODULE_NAME"
_BACKBONE_TABLE = "MODEL_FOR_BACKBONE_MAPPING_NAMES"


class InternalsChangedError(Exception):
    """This release of transformers is not made as the code here expects."""


def library_version() -> str:
    """The installed release of transformers.

    Raises:
        ArchitectureError: It is not installed.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("transformers")
    except PackageNotFoundError:
        raise ArchitectureError("transformers is not installed; install it to ask about its classes") from None


def family(model_type: str) -> tuple[str, ...]:
    """The classes that the auto tables name for a model type, the base model first.

    Raises:
        ArchitectureError: This release of transformers has no such model type.
    """
    classes = _class_tables().get(model_type)
    if classes is None:
        raise ArchitectureError(
            f"model_type {model_type!r} is unknown to transformers {library_version()}: update it, or the model needs "
            "custom code, which is never run here"
        )
    return classes


def every_class(model_type: str) -> tuple[str, ...]:
    """The family, then all other public classes of its modeling files."""
    others = [name for path in _modeling_files(model_type) for name in _public_classes(path)]
    return tuple(dict.fromkeys((*_class_tables().get(model_type, ()), *others)))


def module_of(class_name: str, model_type: str) -> str:
    """The module that defines a class of a model type's folder.

    Raises:
        ArchitectureError: There is no such class.
    """
    # Some model types borrow the classes of another (gpt-sw3 those of gpt2).
    for path in (*_modeling_files(model_type), *sorted(_models_folder().glob("*/modeling_*.py"))):
        if re.search(rf"^class {re.escape(class_name)}\b", path.read_text(encoding="utf-8"), re.MULTILINE):
            return f"transformers.models.{path.parent.name}.{path.stem}"
    raise ArchitectureError(
        f"{class_name}: transformers {library_version()} has no such class for model_type {model_type!r}; "
        f"it has {', '.join(every_class(model_type)) or 'none'}"
    )


def _models_folder() -> Path:
    spec = find_spec("transformers")
    if spec is None or spec.origin is None:
        raise ArchitectureError("transformers is not installed; install it to ask about its classes")
    return Path(spec.origin).parent / "models"


def _modeling_files(model_type: str) -> list[Path]:
    folder = _folders().get(model_type, model_type.replace("-", "_"))
    return sorted((_models_folder() / folder).glob("modeling_*.py"))


@cache
def _class_tables() -> Mapping[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {}
    for node in _parsed(_models_folder() / "auto" / _CLASS_TABLES).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            table = node.targets[0].id
            # A backbone for detectors is not a head that anyone fine-tunes.
            if table.endswith("_MAPPING_NAMES") and table != _BACKBONE_TABLE:
                for model_type, names in _pairs(node.value):
                    found.setdefault(model_type, {}).update(dict.fromkeys(names))
    return {model_type: tuple(names) for model_type, names in found.items()}


@cache
def _folders() -> Mapping[str, str]:
    folders: dict[str, str] = {}
    for file in _FOLDER_TABLES:
        for node in _parsed(_models_folder() / "auto" / file).body:
            if isinstance(node, ast.Assign):
                named, value = ast.unparse(node.targets[0]), node.value
            elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and node.value.args:
                named, value = ast.unparse(node.value.func).removesuffix(".update"), node.value.args[0]
            else:
                continue
            if named == _FOLDER_TABLE:
                folders |= {model_type: names[0] for model_type, names in _pairs(value)}
    return folders


def _pairs(node: ast.expr) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The literal entries of a dict, or of an OrderedDict made of pairs."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Dict):
            entries = list(zip(inner.keys, inner.values, strict=True))
        elif isinstance(inner, ast.Tuple) and len(inner.elts) == 2:
            entries = [(inner.elts[0], inner.elts[1])]
        else:
            continue
        for key, value in entries:
            names = value.elts if isinstance(value, ast.Tuple | ast.List) else [value]
            texts = [text.value for text in names if isinstance(text, ast.Constant) and isinstance(text.value, str)]
            if isinstance(key, ast.Constant) and isinstance(key.value, str) and len(texts) == len(names):
                yield key.value, tuple(texts)


def _public_classes(path: Path) -> list[str]:
    for node in _parsed(path).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names = [item.value for item in ast.walk(node.value) if isinstance(item, ast.Constant)]
            return [name for name in names if isinstance(name, str) and not name.endswith("PreTrainedModel")]
    return []


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ArchitectureError(f"transformers' table {path.name} cannot be read ({error}); reinstall it") from None
