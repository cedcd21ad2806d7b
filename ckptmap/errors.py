"""Every exception ckptmap raises.

    CkptmapError
    ├── UsageError        (ValueError)  a flag, an argument or an environment variable cannot be what it is
    ├── CheckpointError   (OSError)     cannot be read, or is not a checkpoint
    ├── RuleError         (ValueError)  the rule file is wrong
    ├── PlanError         (ValueError)  the rules do not fit these checkpoints
    ├── ConvertError      (ValueError)  a tie is broken, padding is not zero, the target exists, …
    ├── ArchitectureError (ValueError)  a model could not be built or traced
    └── ExportError       (ValueError)  the target cannot say it

A message says where, what, and what to do next. The classes appear below as their features do.
"""

from __future__ import annotations


class CkptmapError(Exception):
    """Base of every error that ckptmap raises on purpose."""


class UsageError(CkptmapError, ValueError):
    """A flag, an argument or an environment variable has a value that it cannot have."""


class CheckpointError(CkptmapError, OSError):
    """A source cannot be read, or is not a checkpoint.

    Args:
        problem: What is wrong and what to do about it.
        source: What was being read: a path, a file name or a Hub id.
        where: The place inside it: a tensor name, a header field, a byte offset.
    """

    def __init__(self, problem: str, *, source: str = "", where: str = "") -> None:
        self.problem = problem
        self.source = source
        self.where = where
        super().__init__(": ".join(part for part in (source, where, problem) if part))

    def __str__(self) -> str:
        # OSError would print its own errno form.
        return ": ".join(part for part in (self.source, self.where, self.problem) if part)

    def __reduce__(self) -> tuple[object, ...]:
        return (_checkpoint_error, (self.problem, self.source, self.where))


def _checkpoint_error(problem: str, source: str, where: str) -> CheckpointError:
    return CheckpointError(problem, source=source, where=where)


class ArchitectureError(CkptmapError, ValueError):
    """A model class could not be found, built or traced."""


class RuleError(CkptmapError, ValueError):
    """A rule file is wrong; all faults of it are told together, a line each.

    Args:
        problem: One line for each fault, with its place: `file:line:column: what; what to do`.
        path: The file.
        line: The line of the first fault, from 1.
        column: Its column, from 1.
    """

    def __init__(self, problem: str, *, path: str = "", line: int = 0, column: int = 0) -> None:
        self.path = path
        self.line = line
        self.column = column
        super().__init__(problem)


class PlanError(CkptmapError, ValueError):
    """The rules do not fit these checkpoints.

    Args:
        problems: Everything that does not fit, a sentence each.
    """

    def __init__(self, problems: tuple[str, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class ConvertError(CkptmapError, ValueError):
    """The data do not allow a conversion: a tie is broken, padding is not zero, the target exists, …"""


class ExportError(CkptmapError, ValueError):
    """A target cannot say these rules.

    Args:
        problem: What cannot be said, and why.
        rules: The lines of the rules.
    """

    def __init__(self, problem: str, rules: tuple[int, ...] = ()) -> None:
        self.rules = rules
        super().__init__(problem)
