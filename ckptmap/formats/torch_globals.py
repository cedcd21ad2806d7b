"""The functions and classes that torch's pickles name, each as an inert stand-in: the whole list of what is allowed."""

from __future__ import annotations

from collections.abc import Mapping

from ckptmap.formats.pickled import Builder, Global, Made, dict_key
from ckptmap.formats.torch_tensors import DTYPES, Storage, StorageType, make_tensor

# Source: torch 2.13, torch/storage.py, _dtype_to_storage_type_map.
_STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "BFloat16Storage": "bfloat16",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "QInt8Storage": "qint8",
    "QInt32Storage": "qint32",
    "QUInt8Storage": "quint8",
    "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
    "UntypedStorage": "uint8",
}


def _storage(value: object) -> Storage:
    if type(value) is not Storage:
        raise ValueError("a tensor is made from something that is no storage")
    return value


# The builders take a function's arguments as torch pickles them. Source: torch 2.13, torch/_utils.py and
# torch/_tensor.py, the functions of the same names.


def _rebuild_tensor(args: tuple[object, ...]) -> object:
    storage, offset, size, stride = args
    return make_tensor(_storage(storage), _storage(storage).dtype, offset, size, stride)


def _rebuild_tensor_v2(args: tuple[object, ...]) -> object:
    tensor = _rebuild_tensor(args[:4])
    return _marked(tensor, args[6]) if len(args) > 6 else tensor


def _rebuild_tensor_v3(args: tuple[object, ...]) -> object:
    storage, offset, size, stride, _, _, dtype, *metadata = args
    tensor = make_tensor(_storage(storage), dtype, offset, size, stride)
    return _marked(tensor, metadata[0]) if metadata else tensor


def _marked(tensor: object, metadata: object) -> object:
    # The conj and neg bits say that the bytes are not yet the values.
    return Made(Global("torch", "lazily conjugated or negated tensor"), (tensor,)) if metadata else tensor


def _rebuild_meta(args: tuple[object, ...]) -> object:
    dtype, size, stride, _ = args
    return make_tensor(None, dtype, 0, size, stride)


def _first(args: tuple[object, ...]) -> object:
    return args[0]


def _rebuild_from_type_v2(args: tuple[object, ...]) -> object:
    function, kind, inner, state = args
    if type(function) is Builder and function.build is not _rebuild_from_type_v2 and type(inner) is tuple:
        return function.build(inner)
    return Made(kind, inner, states=[state])


def _ordered_dict(args: tuple[object, ...]) -> object:
    if not args:
        return {}  # by far the commonest: the hooks of every tensor
    if len(args) > 1:
        raise ValueError("an OrderedDict has more than one argument")
    given = args[0]
    if type(given) is dict:
        return dict(given)
    if not isinstance(given, list | tuple):
        raise ValueError("an OrderedDict is made from something that holds no pairs")
    made: dict[object, object] = {}
    for pair in given:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError("an OrderedDict is made from something that is no pair")
        made[dict_key(pair[0])] = pair[1]
    return made


def _default_dict(args: tuple[object, ...]) -> object:
    return _ordered_dict(args[1:])


def _known() -> dict[tuple[str, str], object]:
    builders = {
        ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
        ("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
        ("torch._utils", "_rebuild_parameter"): _first,
        ("torch._utils", "_rebuild_parameter_with_state"): _first,
        ("torch._utils", "_rebuild_device_tensor_from_cpu_tensor"): _first,
        ("torch._utils", "_rebuild_meta_tensor_no_storage"): _rebuild_meta,
        ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type_v2,
        ("torch.tensor", "_rebuild_from_type_v2"): _rebuild_from_type_v2,
        ("torch.nn.parameter", "Parameter"): _first,
        ("torch", "Size"): _first,
        ("collections", "OrderedDict"): _ordered_dict,
        ("collections", "Counter"): _ordered_dict,
        ("collections", "defaultdict"): _default_dict,
        ("builtins", "dict"): _ordered_dict,
        ("__builtin__", "dict"): _ordered_dict,
    }
    known: dict[tuple[str, str], object] = {pair: Builder(build, Global(*pair)) for pair, build in builders.items()}
    known |= {("torch", torch_name): dtype for torch_name, dtype in DTYPES.items()}
    for name, torch_name in _STORAGE_DTYPES.items():
        for module in ("torch", "torch.cuda", "torch.storage"):
            known[module, name] = StorageType(DTYPES[torch_name])
    return known


KNOWN: Mapping[tuple[str, str], object] = _known()

WITHOUT_TENSORS: Mapping[tuple[str, str], object] = {
    pair: Builder(lambda args: None, known.stands_for)
    if type(known) is Builder and pair[0].startswith("torch") and pair[1] != "Size"
    else known
    for pair, known in KNOWN.items()
}
"""The same for who looks at what is called and wants no tensor: storages may be missing."""
