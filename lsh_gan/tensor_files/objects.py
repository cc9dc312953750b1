"""What the classes and functions named in torch, NumPy and NVIDIA pickles stand for here."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from lsh_gan.tensor_files.values import FormatError, Standin, shown, shown_parts

_MOST_DIMENSIONS = 32
_LARGEST_SIZE = 2**48
_MOST_EXPANDED = 2**24  # elements of a tensor that repeats its storage
_WIDEST_KEY = 60  # bits; integers that differ by 2**61 - 1 have the same hash
_LONGEST_KEY = 2**16  # characters

# Names of element types: torch's dtypes and its classes of storages.
_DTYPE_NAMES = {
    np.float64: "float64 double DoubleStorage", np.float32: "float32 float FloatStorage",
    np.float16: "float16 half HalfStorage", ml_dtypes.bfloat16: "bfloat16 BFloat16Storage",
    ml_dtypes.float8_e4m3fn: "float8_e4m3fn", ml_dtypes.float8_e5m2: "float8_e5m2",
    np.int64: "int64 long LongStorage", np.int32: "int32 int IntStorage",
    np.int16: "int16 short ShortStorage", np.int8: "int8 CharStorage",
    np.uint8: "uint8 ByteStorage UntypedStorage", np.uint16: "uint16", np.uint32: "uint32",
    np.uint64: "uint64", np.bool_: "bool BoolStorage",
    np.complex64: "complex64 cfloat ComplexFloatStorage",
    np.complex128: "complex128 cdouble ComplexDoubleStorage",
}  # fmt: skip
_DTYPES = {name: np.dtype(kind) for kind, names in _DTYPE_NAMES.items() for name in names.split()}


class Storage(NamedTuple):
    """The flat memory that tensors view."""

    dtype: np.dtype  # its element type
    data: np.ndarray  # its bytes, uint8 [num_bytes]


def torch_dtype(kind: Any) -> np.dtype:
    """The element type of a global such as `torch.float32` or `torch.FloatStorage`."""
    name = kind.name.rpartition(".")[2] if isinstance(kind, Standin) else shown(kind)
    if name not in _DTYPES:
        raise FormatError(f"has a tensor of type {name}, which has no plain array form.")
    return _DTYPES[name]


def is_count(value: Any) -> bool:
    """Whether it is a size or offset that no file exceeds."""
    return type(value) is int and 0 <= value < _LARGEST_SIZE


def tensor_v3(storage, offset, shape, strides, grad, hooks, dtype, metadata=None, *_):
    """`torch._utils._rebuild_tensor_v3`: a view of an untyped storage."""
    return tensor(storage, offset, shape, strides, metadata=metadata, dtype=torch_dtype(dtype))


def tensor(
    storage, offset, shape, strides, grad=False, hooks=None, metadata=None, *_, dtype=None
) -> np.ndarray:
    """`torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`: a view of a storage."""
    if not isinstance(storage, Storage):
        raise FormatError(f"builds a tensor from a {type(storage).__name__}.")
    if metadata is not None and not isinstance(metadata, dict):
        raise FormatError(f"has a tensor whose metadata are a {type(metadata).__name__}.")
    if {"conj", "neg"} & set(metadata or ()):
        raise FormatError(
            "has a tensor that is only marked as conjugated or negated; expected its values: save "
            "tensor.resolve_conj().resolve_neg()"
        )
    dtype = dtype or storage.dtype
    fit = _is_list(shape) and _is_list(strides) and len(shape) == len(strides)
    if not fit or len(shape) > _MOST_DIMENSIONS:
        parts = f"{shown_parts(shape)} with strides {shown_parts(strides)}"
        raise FormatError(f"has a tensor of shape {parts}.")
    numbers = (offset, *shape, *strides)
    if not all(map(is_count, numbers)):
        raise FormatError(f"has a tensor with offset, shape, strides {shown_parts(numbers)}.")
    size = math.prod(shape)
    available = storage.data.size // dtype.itemsize
    needed = offset + 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if size and needed > available:
        raise FormatError(f"has a tensor of {needed} elements in a storage of {available}.")
    if size > max(available, _MOST_EXPANDED):
        raise FormatError(f"expands {available} elements to {size}.")
    if not size:
        return np.zeros(shape, dtype)
    byte_strides = [s * dtype.itemsize for s in strides]
    view = np.ndarray(shape, dtype, storage.data, offset * dtype.itemsize, byte_strides)
    view.flags.writeable = False
    return view


def _typed_tensor(rebuild: Standin, kind: Standin, args: tuple, state: Any) -> np.ndarray:
    """`torch._tensor._rebuild_from_type_v2`: a tensor subclass, read as a plain tensor."""
    known = isinstance(rebuild, Standin) and rebuild.name in CONSTRUCTORS
    if not known or not rebuild.name.startswith("torch._utils.") or not isinstance(args, tuple):
        raise FormatError("rebuilds a tensor subclass by an unknown function.")
    return CONSTRUCTORS[rebuild.name](*args)


def persistent_object(meta: Any) -> Standin:
    """NVIDIA's `torch_utils.persistence`: the class by name; its source text is dropped unread."""
    if not isinstance(meta, dict) or not isinstance(meta.get("class_name"), str):
        raise FormatError("has a persistent object without class_name.")
    return Standin(meta["class_name"], state=meta.get("state"))


def _numpy_dtype(value: Any) -> np.dtype:
    """A pickled `numpy.dtype`: type string, then a state whose second entry is the byte order."""
    if not isinstance(value, Standin) or value.name != "numpy.dtype":
        raise FormatError(f"has an array of type {shown(value)}.")
    text = value.args[0]
    plain = isinstance(text, str) and text[:1] in tuple("bBiufcSU") and text[1:].isdigit()
    if not plain or int(text[1:]) > 2**20:
        raise FormatError(f"has an array of type {shown(text)}; expected numbers or strings.")
    order: Any = value.state[1] if isinstance(value.state, tuple) else "="
    known = isinstance(order, str) and order in ("<", ">", "=", "|")
    if not known:
        raise FormatError(f"has an array of byte order {shown(order)}.")
    return np.dtype(text).newbyteorder(order)


def array_from_bytes(data: Any, dtype: np.dtype, shape: tuple, order: Any) -> np.ndarray:
    """An array in native byte order over `data`; the sizes must agree."""
    data = data.encode("latin-1") if isinstance(data, str) else data
    if not isinstance(data, bytes | bytearray | memoryview):
        raise FormatError(f"has an array whose data are a {type(data).__name__}.")
    if not _is_list(shape) or len(shape) > _MOST_DIMENSIONS or not all(map(is_count, shape)):
        raise FormatError(f"has an array of shape {shown_parts(shape)}.")
    if math.prod(shape) * dtype.itemsize != len(data):
        raise FormatError(f"has an array of {dtype} {shape} in {len(data)} bytes.")
    array = np.frombuffer(data, dtype) if data else np.zeros(0, dtype)
    return array.reshape(shape, order=order).astype(dtype.newbyteorder("="), copy=False)


def _scalar(dtype: Standin, data: bytes) -> Any:
    """`numpy.core.multiarray.scalar`, as a Python number or string."""
    return array_from_bytes(data, _numpy_dtype(dtype), (), "C").item()


def _frombuffer(data: Any, dtype: Standin, shape: tuple, order: str) -> np.ndarray:
    """`numpy.core.numeric._frombuffer`, which protocol 5 uses."""
    return array_from_bytes(data, _numpy_dtype(dtype), shape, "F" if order == "F" else "C")


def set_array_state(array: np.ndarray, state: Any) -> None:
    """Fills an array made by `numpy.core.multiarray._reconstruct`.

    In place (`ndarray.__setstate__` with checked values), as others may refer to it already.
    """
    _, shape, dtype, fortran_order, data = state
    values = array_from_bytes(data, _numpy_dtype(dtype), shape, "F" if fortran_order else "C")
    fill: Any = array.__setstate__  # typed for the booleans of NumPy alone
    fill((1, values.shape, values.dtype, False, values.tobytes()))


def _encode(text: Any, encoding: Any) -> bytes:
    """`_codecs.encode`, which old protocols use for bytes."""
    known = isinstance(encoding, str) and encoding in ("latin1", "latin-1")
    if not isinstance(text, str) or not known:
        raise FormatError(f"encodes a {type(text).__name__} as {shown(encoding)}.")
    return text.encode("latin-1")


def check_key(key: Any) -> None:
    """Refuses keys that make dictionaries and sets slow.

    Those are integers that could be chosen to have all the same hash, and long texts, which are
    compared whole each time. Floats need no such check: few of them share a hash.
    """
    if isinstance(key, int) and key.bit_length() > _WIDEST_KEY:
        raise FormatError(f"uses {shown(key)} as a dictionary key; at most {_WIDEST_KEY} bits.")
    if isinstance(key, str | bytes) and len(key) > _LONGEST_KEY:
        raise FormatError(
            f"uses {len(key)} characters as a dictionary key; at most {_LONGEST_KEY}."
        )


def _dictionary(*args) -> dict:
    """A dict or subclass of it, from nothing, a dict, or a list of pairs."""
    pairs = args[0] if args else ()
    if isinstance(pairs, dict):
        return dict(pairs)
    if not _is_list(pairs) or not all(_is_list(pair) and len(pair) == 2 for pair in pairs):
        raise FormatError("builds a dictionary from something other than pairs.")
    for key, _ in pairs:
        if not isinstance(key, str | int):
            raise FormatError("builds a dictionary whose keys are not strings or integers.")
        check_key(key)
    return dict(pairs)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _set(items: Any = ()) -> set:
    flat = _is_list(items) or isinstance(items, set)
    if not flat or not all(isinstance(item, str | int | float) for item in items):
        raise FormatError("builds a set of values other than strings and numbers.")
    for item in items:
        check_key(item)
    return set(items)


def _size(sizes: Any = ()) -> tuple:
    """`torch.Size`."""
    if not _is_list(sizes):
        raise FormatError(f"builds a torch.Size from a {type(sizes).__name__}.")
    return tuple(sizes)


def _bytes(name: str) -> Callable[..., Any]:
    """`bytes`: protocols before 3 write b"" as a call without arguments."""
    return lambda *args: Standin(name, args) if args else b""


def _standin(name: str) -> Callable[..., Standin]:
    return lambda *args, **kwargs: Standin(name, args, kwargs)


def _reconstructor(kind: Any, base: Any = None, state: Any = None) -> Standin:
    """`copyreg._reconstructor(cls, base, state)`, which protocols 0 and 1 use for objects."""
    return Standin(kind.name if isinstance(kind, Standin) else shown(kind), (state,))


# Classes of the standard library that are read as stand-ins; all others there are refused.
_STANDARD_CLASSES = (
    "argparse.Namespace", "types.SimpleNamespace", "functools.partial", "collections.deque",
    "datetime.date", "datetime.datetime", "datetime.time", "datetime.timedelta",
    "datetime.timezone", "decimal.Decimal", "fractions.Fraction", "uuid.UUID",
    "pathlib.Path", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath",
    "pathlib.PureWindowsPath", "pathlib._local.PosixPath", "pathlib._local.WindowsPath",
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in (
        "object", "int", "float", "bool", "str", "bytearray", "complex", "list", "tuple",
        "slice", "range", "Ellipsis", "NotImplemented",
    )),
)  # fmt: skip

_NUMPY = {
    f"numpy.{package}.{name}": function
    for package in ("core", "_core")
    for name, function in (
        ("multiarray._reconstruct", lambda *_: np.zeros(0, np.uint8)),
        ("multiarray.scalar", _scalar),
        ("numeric._frombuffer", _frombuffer),
    )
}

CONSTRUCTORS: dict[str, Callable] = {
    **{name: _standin(name) for name in (*_STANDARD_CLASSES, "numpy.dtype", "torch.device")},
    **_NUMPY,
    **{name: _bytes(name) for name in ("builtins.bytes", "__builtin__.bytes")},
    **dict.fromkeys(("builtins.dict", "__builtin__.dict"), _dictionary),
    **dict.fromkeys(("builtins.set", "__builtin__.set"), _set),
    **dict.fromkeys(("builtins.frozenset", "__builtin__.frozenset"), _set),
    **{f"{module}._reconstructor": _reconstructor for module in ("copyreg", "copy_reg")},
    "collections.OrderedDict": _dictionary,
    "collections.Counter": _dictionary,
    "collections.defaultdict": lambda factory=None, *args: _dictionary(*args),
    "dnnlib.util.EasyDict": _dictionary,
    "dnnlib.EasyDict": _dictionary,
    "_codecs.encode": _encode,
    "torch.Size": _size,
    "torch._utils._rebuild_tensor": tensor,
    "torch._utils._rebuild_tensor_v2": tensor,
    "torch._utils._rebuild_tensor_v3": tensor_v3,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": _typed_tensor,
    "torch._utils._rebuild_device_tensor_from_numpy": lambda data, *_: data,
    "torch._utils._rebuild_xla_tensor": lambda data, *_: data,
    "torch._tensor._rebuild_from_type": _typed_tensor,
    "torch_utils.persistence._reconstruct_persistent_obj": persistent_object,
}
