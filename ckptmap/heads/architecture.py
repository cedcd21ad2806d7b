"""A class without weights as one side of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ckptmap.checkpoint import Checkpoint
from ckptmap.errors import CheckpointError
from ckptmap.formats import Contents, Extent
from ckptmap.heads import class_inventory
from ckptmap.spec import Inventory, TensorSpec


def class_checkpoint(
    class_name: str,
    config: Mapping[str, Any],
    *,
    beside: Inventory,
    use_cache: bool = True,
    in_child: bool = False,
) -> Checkpoint:
    """The names and shapes that a class expects, as a checkpoint that has no values.

    Args:
        class_name: A transformers class.
        config: A config.json's content.
        beside: The other side. A class has no dtype of its own, so a name that both have takes the other's.
        use_cache: Whether the class's inventory may be read from and kept on disk.
        in_child: Import transformers in a process of its own, not in this one.

    Raises:
        ArchitectureError: There is no such class, or it cannot be built from the config.
    """
    inventory = class_inventory(class_name, config, {}, None, use_cache=use_cache, in_child=in_child)
    specs = {
        name: TensorSpec(name, shape, beside[name].dtype if name in beside else "F32")
        for name, shape in inventory.shapes.items()
    }

    def locate(name: str) -> Extent:
        raise CheckpointError("is expected by a class, which has no values", source=class_name, where=name)

    return Checkpoint(Contents(specs, {}, locate), source=f"class {class_name}", names="in memory")
