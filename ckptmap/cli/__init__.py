"""The command line: one file a verb, one row in `VERBS`.

A verb's module has `EXAMPLES`, `add_arguments(parser)` and `run(args) -> exit code`.
Exit codes are those of diff(1): 0 yes, 1 no, 2 could not tell.
"""
