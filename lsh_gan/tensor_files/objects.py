"""Replacements for the classes and functions named in torch, NumPy and NVIDIA pickles."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from lsh_gan.tensor_files.values import FormatError, Standin

_LARGEST_SIZE = 2**48

# Names of element types: torch's dtypes and its storage classes.
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
    """Flat memory that tensors are views of."""

    dtype: np.dtype  # its element type
    data: np.ndarray  # its bytes, uint8 [num_bytes]


def torch_dtype(kind: Any) -> np.dtype:
    """Returns the element type of a global such as `torch.float32` or `torch.FloatStorage`."""
    name = kind.name.rpartition(".")[2]
    if name not in _DTYPES:
        raise FormatError(f"has a tensor of type {name}, which has no plain array form.")
    return _DTYPES[name]


def is_count(value: Any) -> bool:
    """Whether a value is a plausible size or offset."""
    return type(value) is int and 0 <= value < _LARGEST_SIZE


def tensor_v3(storage, offset, shape, strides, grad, hooks, dtype, metadata=None, *_):
    """Replaces `torch._utils._rebuild_tensor_v3`: makes a view of an untyped storage."""
    return tensor(storage, offset, shape, strides, metadata=metadata, dtype=torch_dtype(dtype))


def tensor(
    storage, offset, shape, strides, grad=False, hooks=None, metadata=None, *_, dtype=None
) -> np.ndarray:
    """Replaces `torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`: makes a storage view."""
    if {"conj", "neg"} & set(metadata or ()):
        raise FormatError(
            "has a tensor that is only marked as conjugated or negated; expected its values: save "
            "tensor.resolve_conj().resolve_neg()"
        )
    dtype = dtype or storage.dtype
    numbers = (offset, *shape, *strides)
    if not all(map(is_count, numbers)):
        raise FormatError(f"has a tensor with offset, shape, strides {numbers}.")
    if not math.prod(shape):
        return np.zeros(shape, dtype)
    available = storage.data.size // dtype.itemsize
    needed = offset + 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if needed > available:
        raise FormatError(f"has a tensor of {needed} elements in a storage of {available}.")
    byte_strides = [s * dtype.itemsize for s in strides]
    view = np.ndarray(shape, dtype, storage.data, offset * dtype.itemsize, byte_strides)
    view.flags.writeable = False
    return view


def _array(data: Any, pickled: Standin, shape: tuple, order: Any = "C") -> np.ndarray:
    """Makes an array in native byte order from `data`, whose size must fit.

    A pickled `numpy.dtype` has a type string, and a state whose second entry is the byte order.
    """
    dtype = np.dtype(pickled.args[0]).newbyteorder(pickled.state[1] if pickled.state else "=")
    if dtype.hasobject:
        raise FormatError(f"has an array of type {dtype}; expected numbers or strings.")
    data = data.encode("latin-1") if isinstance(data, str) else data
    array = np.frombuffer(data, dtype) if data else np.zeros(0, dtype)
    return array.reshape(shape, order=order).astype(dtype.newbyteorder("="), copy=False)


def set_array_state(array: np.ndarray, state: Any) -> None:
    """Fills an array made by `numpy.core.multiarray._reconstruct`.

    It is filled in place (`ndarray.__setstate__` with checked values), because other values may
    already refer to it.
    """
    _, shape, dtype, fortran_order, data = state
    values = _array(data, dtype, shape, "F" if fortran_order else "C")
    fill: Any = array.__setstate__  # its stub accepts only NumPy booleans
    fill((1, values.shape, values.dtype, False, values.tobytes()))


def _standin(name: str) -> Callable[..., Standin]:
    return lambda *args, **kwargs: Standin(name, args, kwargs)


# Classes of the standard library that are read as stand-ins; its other classes are refused.
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

_NUMPY: dict[str, Callable] = {
    "multiarray._reconstruct": lambda *_: np.zeros(0, np.uint8),
    "multiarray.scalar": lambda dtype, data: _array(data, dtype, ()).item(),
    "numeric._frombuffer": _array,  # in protocol 5
}
_BUILTINS: dict[str, Callable] = {
    "dict": dict, "set": set, "frozenset": frozenset,
    # Protocols before 3 write b"" as a call without arguments.
    "bytes": lambda *args: Standin("builtins.bytes", args) if args else b"",
}  # fmt: skip

CONSTRUCTORS: dict[str, Callable] = {
    **{name: _standin(name) for name in (*_STANDARD_CLASSES, "numpy.dtype", "torch.device")},
    **{f"numpy.{part}.{name}": f for part in ("core", "_core") for name, f in _NUMPY.items()},
    **{f"{m}.{name}": f for m in ("builtins", "__builtin__") for name, f in _BUILTINS.items()},
    # Objects in protocols 0 and 1.
    **dict.fromkeys(
        ("copyreg._reconstructor", "copy_reg._reconstructor"),
        lambda kind, base=None, state=None: Standin(kind.name, (state,)),
    ),
    "dnnlib.util.EasyDict": dict,
    "dnnlib.EasyDict": dict,
    "collections.OrderedDict": dict,
    "collections.Counter": dict,
    "collections.defaultdict": lambda factory=None, *args: dict(*args),
    "_codecs.encode": lambda text, encoding: text.encode("latin-1"),  # bytes in old protocols
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": tensor,
    "torch._utils._rebuild_tensor_v2": tensor,
    "torch._utils._rebuild_tensor_v3": tensor_v3,
    **{
        f"torch._utils._rebuild_{kind}": lambda data, *_: data
        for kind in ("parameter", "parameter_with_state", "device_tensor_from_numpy", "xla_tensor")
    },
    **dict.fromkeys(  # a subclass of a tensor, read as a plain tensor
        ("torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type"),
        lambda rebuild, kind, args, state: CONSTRUCTORS[rebuild.name](*args),
    ),
    # NVIDIA's persistent objects: keeps the name of the class, drops its source text unread.
    "torch_utils.persistence._reconstruct_persistent_obj": lambda meta: Standin(
        meta["class_name"], state=meta.get("state")
    ),
}
