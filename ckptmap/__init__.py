"""See what is in a PyTorch checkpoint, what differs, and which tensor is which.

The names below are the public library; importing it loads neither torch nor transformers.
"""

import sys

if sys.argv[:1] == ["-m"] and "ckptmap" in sys.orig_argv and sys.path:
    # `python -m ckptmap`: Python put the current folder first, and there may lie a downloaded json.py or torch.py.
    del sys.path[0]

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ckptmap.checkpoint import Checkpoint as Checkpoint
from ckptmap.checkpoint import open_checkpoint as open_checkpoint
from ckptmap.diff import Diff as Diff
from ckptmap.diff import diff as diff
from ckptmap.errors import ArchitectureError as ArchitectureError
from ckptmap.errors import CheckpointError as CheckpointError
from ckptmap.errors import CkptmapError as CkptmapError
from ckptmap.errors import ConvertError as ConvertError
from ckptmap.errors import ExportError as ExportError
from ckptmap.errors import PlanError as PlanError
from ckptmap.errors import RuleError as RuleError
from ckptmap.heads import HeadReport as HeadReport
from ckptmap.heads import HeadsReport as HeadsReport
from ckptmap.heads import heads as heads
from ckptmap.spec import TensorSpec as TensorSpec

if TYPE_CHECKING:
    from ckptmap.conversion.convert import convert as convert
    from ckptmap.conversion.loading import load_into as load_into
    from ckptmap.exporting import export as export
    from ckptmap.remapping import Remap as Remap
    from ckptmap.remapping import remap as remap
    from ckptmap.rules.rules import Rules as Rules
    from ckptmap.safety import scan as scan
    from ckptmap.values.digest import digest as digest
    from ckptmap.values.examine import examine as examine
    from ckptmap.verifying import verify as verify

__version__ = "0.1.0"

# Names whose modules are imported when they are first asked for: `inspect` and `diff` do without them.
_LATE = {
    "convert": "ckptmap.conversion.convert",
    "export": "ckptmap.exporting",
    "load_into": "ckptmap.conversion.loading",
    "Remap": "ckptmap.remapping",
    "remap": "ckptmap.remapping",
    "Rules": "ckptmap.rules.rules",
    "scan": "ckptmap.safety",
    "digest": "ckptmap.values.digest",
    "examine": "ckptmap.values.examine",
    "verify": "ckptmap.verifying",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module 'ckptmap' has no attribute {name!r}")
    return getattr(import_module(_LATE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})
