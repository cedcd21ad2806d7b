"""See what is in a PyTorch checkpoint, what differs, and which tensor is which.

The names below are the public library; importing it loads neither torch nor transformers.
"""

from ckptmap.checkpoint import Checkpoint as Checkpoint
from ckptmap.checkpoint import open_checkpoint as open_checkpoint
from ckptmap.diff import Diff as Diff
from ckptmap.diff import diff as diff
from ckptmap.errors import ArchitectureError as ArchitectureError
from ckptmap.errors import CheckpointError as CheckpointError
from ckptmap.errors import CkptmapError as CkptmapError
from ckptmap.heads import HeadReport as HeadReport
from ckptmap.heads import HeadsReport as HeadsReport
from ckptmap.heads import heads as heads
from ckptmap.spec import TensorSpec as TensorSpec

__version__ = "0.1.0"
