"""See what is in a PyTorch checkpoint, what differs, and which tensor is which.

The names below are the public library; importing it loads neither torch nor transformers.
"""

from ckptmap.checkpoint import Checkpoint as Checkpoint
from ckptmap.checkpoint import open_checkpoint as open_checkpoint
from ckptmap.convert import convert as convert
from ckptmap.convert import load_into as load_into
from ckptmap.diff import Diff as Diff
from ckptmap.diff import diff as diff
from ckptmap.errors import ArchitectureError as ArchitectureError
from ckptmap.errors import CheckpointError as CheckpointError
from ckptmap.errors import CkptmapError as CkptmapError
from ckptmap.errors import ConvertError as ConvertError
from ckptmap.errors import PlanError as PlanError
from ckptmap.errors import RuleError as RuleError
from ckptmap.heads import HeadReport as HeadReport
from ckptmap.heads import HeadsReport as HeadsReport
from ckptmap.heads import heads as heads
from ckptmap.rules.rules import Rules as Rules
from ckptmap.spec import TensorSpec as TensorSpec

__version__ = "0.1.0"
