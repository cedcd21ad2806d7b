"""What is measured: each function imports what it needs and returns the call to time; run in a process of its own.

python benchmarks/subjects.py FUNCTION ARGUMENT...    # prints one line of JSON last
"""

import sys
import time
from collections.abc import Callable

Listed = list[tuple[str, tuple[int, ...], str]]
"""Name, shape and dtype of every tensor."""

Call = Callable[[], Listed | None]


def ckptmap_inspect(path: str) -> Call:
    """Run the command as a person does, output in a pipe; torch must not come along."""
    from ckptmap.__main__ import main

    def call() -> None:
        if code := main(["inspect", path]):
            raise SystemExit(code)
        if "torch" in sys.modules:
            raise SystemExit("ckptmap imported torch to inspect a file")

    return call


def ckptmap_open(source: str) -> Call:
    """List a checkpoint by the library."""
    from importlib import import_module

    from ckptmap import open_checkpoint
    from ckptmap.formats import FORMATS

    for format in FORMATS:
        import_module(f"ckptmap.formats.{format.module}")

    return lambda: [(spec.name, spec.shape, spec.dtype) for spec in open_checkpoint(source).values()]


def ckptmap_open_remote(repo_id: str) -> Call:
    """List a Hub repo by the library, the Hub client imported beforehand as it is for the peer."""
    from huggingface_hub import HfApi as HfApi

    import ckptmap.stores.hub

    assert ckptmap.stores.hub
    return ckptmap_open(repo_id)


def torch_load(path: str) -> Call:
    """List a torch archive in the cheapest way that torch has."""
    import torch

    names = {torch.bfloat16: "BF16"}

    def call() -> Listed:
        state = torch.load(path, map_location="meta", mmap=True, weights_only=True)
        return [(name, tuple(tensor.shape), names[tensor.dtype]) for name, tensor in state.items()]

    return call


def hub_parse_local(path: str) -> Call:
    """List a safetensors file by the Hub client's local parser."""
    from huggingface_hub.hf_api import parse_local_safetensors_file_metadata

    def call() -> Listed:
        tensors = parse_local_safetensors_file_metadata(path).tensors
        return [(name, tuple(info.shape), info.dtype) for name, info in tensors.items()]

    return call


def safe_open_slices(path: str) -> Call:
    """List a safetensors file by the safetensors library."""
    import torch
    from safetensors import safe_open

    assert torch

    def call() -> Listed:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            return [(name, tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()]

    return call


def hub_metadata(repo_id: str) -> Call:
    """List a Hub repo by the Hub client."""
    from huggingface_hub import HfApi

    def call() -> Listed:
        files = HfApi().get_safetensors_metadata(repo_id).files_metadata.values()
        return [(name, tuple(info.shape), info.dtype) for file in files for name, info in file.tensors.items()]

    return call


def main() -> None:
    """Time one call and print what it took and what it found."""
    function, *arguments = sys.argv[1:]
    call = globals()[function](*arguments)
    start = time.perf_counter()
    listed = call()
    seconds = time.perf_counter() - start
    with open("/proc/self/status") as lines:
        peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    import hashlib  # late: what measures must not weigh on what is measured
    import json

    found = None if listed is None else [len(listed), hashlib.sha256(repr(sorted(listed)).encode()).hexdigest()]
    print(json.dumps({"call": seconds, "peak": peak / 1024, "found": found}))


if __name__ == "__main__":
    main()
