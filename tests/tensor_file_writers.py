"""Writes small tensor files operation by operation, good and bad ones."""

import json
import pickle
import zipfile

import numpy as np


def raw(value):
    """The pickle operations of a plain value, without protocol and stop."""
    return pickle.dumps(value, 2)[2:-1]


def named(name):
    module, _, name = name.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def call(name, *args):
    """The operations that call a global with arguments given as operations."""
    return named(name) + b"(" + b"".join(args) + b"tR"


def storage(*, kind="FloatStorage", key="0", count=6):
    identifier = raw("storage") + named(f"torch.{kind}") + raw(key) + raw("cpu") + raw(count)
    return b"(" + identifier + b"tQ"


def tensor(*, offset=0, shape=(2, 3), strides=(3, 1), metadata=None, **of_storage):
    args = [storage(**of_storage), *map(raw, (offset, shape, strides, False, None))]
    args += [] if metadata is None else [raw(metadata)]
    return call("torch._utils._rebuild_tensor_v2", *args)


def write_pickle(path, operations):
    path.write_bytes(b"\x80\x02" + operations + b".")
    return path


def write_zip(path, operations, storages, *, byte_order=None):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + operations + b".")
        if byte_order:
            archive.writestr("archive/byteorder", byte_order)
        for key, values in storages.items():
            archive.writestr(f"archive/data/{key}", np.asarray(values).tobytes())
    return path


def legacy(operations, storages, *, protocol=2):
    """The bytes of a legacy torch file whose object is given as operations."""
    start = pickle.dumps(0x1950A86A20F9469CFC6C, protocol)
    parts = (raw(1001), raw({}), operations, raw(list(storages)))
    pickles = (b"\x80\x02" + part + b"." for part in parts)
    data = (len(a).to_bytes(8, "little") + np.asarray(a).tobytes() for a in storages.values())
    return start + b"".join([*pickles, *data])


def write_state(path, state):
    """Writes a state dict as safetensors, whose names are sorted as text: layer 12 before 3."""
    kinds = {"float32": "F32", "int64": "I64"}
    tensors = {name: (kinds[array.dtype.name], array) for name, array in sorted(state.items())}
    return write_safetensors(path, tensors)


def write_safetensors(path, tensors, **changes):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, array) in tensors.items():
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        header[name].update(changes)
        data += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path
