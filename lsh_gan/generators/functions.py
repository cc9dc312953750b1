"""Any function of parameters and latents as a generator; torch modules as such functions."""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from lsh_gan.compression.rules import check_axes, declared_axis, flatten, join, path_of
from lsh_gan.errors import check_int, few
from lsh_gan.identity import code_hash, content_hash

FAMILY = "function"
Latent = int | Callable[[jax.Array], jax.Array]
# Names of weights under spectral or weight norms of torch.
_UNDER_NORM = re.compile(r"(.*\.)?(weight_(orig|g)|parametrizations\.\w+\.original\d?)")
_ROUNDING = 0.01  # of the largest value; bfloat16 changes images by less


@dataclasses.dataclass(frozen=True, eq=False)
class Function:
    """A function that takes the place of a Flax module."""

    # Function of (params, z), or of (params, z, labels) with classes.
    f: Callable[..., jax.Array]
    latent_size: int  # d
    num_classes: int  # number of classes, 0 for none
    draw: Callable[[jax.Array], jax.Array]  # draws one latent `[d]`, from a key
    # A tree like the parameters: leaves that are not floating arrays, None in place of the others.
    constants: Any = dataclasses.field(repr=False)
    channel_axes: dict[str, int]  # patterns of paths -> the axis of output channels
    on_host: bool  # whether it runs outside of JAX's programs
    options: dict[str, Any]  # description of the function, as a JSON object

    def __call__(self, params: Any, z: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        """Makes images of latents `[n, d]`; labels None means class 0, to infer shapes."""
        missing = {"is_leaf": lambda x: x is None}

        def call(params: Any, *given: Any) -> Any:
            whole = jax.tree.map(
                lambda x, y: y if x is None else x, params, self.constants, **missing
            )
            return self.f(whole, *given)

        given: tuple[Any, ...] = (params, z)
        if self.num_classes:
            given += (jnp.zeros(len(z), jnp.int32) if labels is None else labels,)
        return _call_on_host(call, *given) if self.on_host else call(*given)

    apply = __call__  # the interface of a Flax module


def _call_on_host(f: Callable, *given: Any) -> jax.Array:
    """Calls a function of trees of arrays with values; inside a program it calls back."""

    def run(*given: Any) -> np.ndarray:
        made = np.asarray(f(*given))
        return made.astype(np.float32) if np.issubdtype(made.dtype, np.floating) else made

    if not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(given)):
        return jnp.asarray(run(*given))
    # Sampling traces for shapes alone: on a CPU, programs that call back can block each other.
    made = run(*jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), given))
    return jax.pure_callback(run, jax.ShapeDtypeStruct(made.shape, made.dtype), *given)


def wrap(
    f: Callable, params: Any, latent: Latent, num_classes: int, axes: Mapping[str, int], name: str,
    on_host: bool,
) -> tuple[Function, jax.ShapeDtypeStruct, Any]:  # fmt: skip
    """Checks the arguments of `Generator.from_function`.

    Returns the function, the shape of two images, and the parameters: floating arrays as float32,
    and None for other leaves.
    """
    name = name or re.sub(r"\W", "", getattr(f, "__name__", "")).replace("lambda", "") or FAMILY
    if callable(latent):
        drawn = jax.eval_shape(latent, jax.random.key(0)).shape
        if len(drawn) != 1:
            raise ValueError(f"{name}: latent draws shape {drawn}; expected one vector [d]")
        (size,), draw = drawn, latent
    else:
        check_int(f"{name}: latent", latent, 1)
        size, draw = latent, partial(jax.random.normal, shape=(latent,), dtype=jnp.float32)
    check_int(f"{name}: num_classes", num_classes, 0)
    for keys, x in jax.tree_util.tree_leaves_with_path(params):
        if hasattr(x, "detach"):
            path = join(path_of(keys))
            raise TypeError(f"{name}: {path} is a torch tensor; expected NumPy or JAX: x.numpy()")
    parameters = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32) if _floats(x) else None, params)
    constants = jax.tree.map(lambda x: None if _floats(x) else x, params)
    try:
        leaves, _ = flatten(parameters)
        arrays = {join(path): leaf for path, leaf in leaves}
        check_axes(arrays, axes)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None
    options = {
        "name": name, "latent": size, "classes": num_classes, "constants": _hash(constants),
        "channel_axes": dict(axes), "code": code_hash(f),
    }  # fmt: skip
    module = Function(f, size, num_classes, draw, constants, dict(axes), on_host, options)
    z = jax.ShapeDtypeStruct((2, size), jnp.float32)
    try:
        traced, images = jax.make_jaxpr(module, return_shape=True)(parameters, z)
    except Exception as error:  # a user's function may raise anything
        called = "f(params, z, labels)" if num_classes else "f(params, z)"
        why = (str(error).splitlines() or [""])[0]
        raise TypeError(
            f"{name}: {called} with z float32 [2, {size}]: {type(error).__name__}: {why}"
        ) from error
    shape: tuple[int, ...] = getattr(images, "shape", ())
    dtype: Any = getattr(images, "dtype", None)
    fits = len(shape) == 4 and shape[0] == 2 and shape[3] in (1, 3)
    if not fits or shape[1] != shape[2] or not jnp.issubdtype(dtype, jnp.floating):
        made = f"{dtype} {shape}" if dtype else f"a {type(images).__name__}"
        raise ValueError(
            f"{name}: makes {made} of 2 latents; expected floating images in [-1, 1], "
            "[2, h, h, 1 or 3]: channels are last, and height and width equal"
        )
    if on_host:
        _check_rows(module, parameters)
    used = {id(x) for equation in traced.eqns for x in equation.invars}
    if id(traced.jaxpr.invars[-1]) not in used:
        raise ValueError(f"{name}: f does not use z; expected another image of each latent")
    unused = [
        path for path, x in zip(arrays, traced.jaxpr.invars, strict=False) if id(x) not in used
    ]
    if unused:
        count, total = (sum(arrays[path].size for path in paths) for paths in (unused, arrays))
        logging.warning(
            "%s: f does not use %s: %d of %d parameters, which count in every size; leave them out",
            name, few(unused), count, total,
        )  # fmt: skip
    along: dict[int, list[str]] = {}
    for path, x in arrays.items():
        if x.ndim > 1:
            along.setdefault(declared_axis(path, axes) % x.ndim, []).append(path)
    said = [f"axis {axis} of {few(paths)}" for axis, paths in sorted(along.items())]
    logging.info("%s: output channels are %s", name, ", ".join(said))
    return module, images, parameters


def _check_rows(module: Function, params: Any) -> None:
    """Raises ValueError if a latent gives another image beside another, in another place."""
    z = jax.vmap(module.draw)(jax.random.split(jax.random.key(0), 3))
    one = np.asarray(module(params, z[jnp.array([0, 1])]))[0]
    other = np.asarray(module(params, z[jnp.array([2, 0])]))[1]
    if np.abs(one - other).max() > _ROUNDING * np.abs(one).max():
        raise ValueError(
            f"{module.options['name']}: a latent gives another image in another batch; expected "
            "constant noise, and norms with stored statistics (docs/any-generator.md)"
        )


def _floats(x: Any) -> bool:
    return jnp.issubdtype(getattr(x, "dtype", np.int32), jnp.floating) and math.prod(x.shape) > 0


def _hash(constants: Any) -> str:
    """Computes the sha256 (hex) of the arrays among the constants; "" if there are none."""
    arrays = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in jax.tree.leaves(constants)
        if hasattr(x, "dtype")
    ]
    return content_hash(arrays) if arrays else ""


def of_torch(
    module: Any, call: Callable, name: str
) -> tuple[Callable, dict[str, np.ndarray], dict[str, int]]:
    """Makes a function of (state, z) or (state, z, labels) that calls a torch module.

    Returns the function, the state dict, and the axes of output channels; see
    `Generator.from_torch`.
    """
    import torch

    if isinstance(module, torch.fx.GraphModule) or not isinstance(module, torch.nn.Module):
        raise TypeError(
            f"module is a {type(module).__name__}; expected a torch.nn.Module as it was written, "
            "not its state dict or export"
        )

    class Called(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module

        def forward(self, *given):
            return call(module, *given)

    def to_torch(x: np.ndarray | jax.Array) -> Any:
        return torch.from_numpy(np.array(x)).to(device)

    def f(state: Mapping[str, Any], z: Any, *labels: Any) -> np.ndarray:
        tensors = {path: to_torch(x) for path, x in state.items()}
        tensors = {name: tensors[path] for name, path in places.items() if path in tensors}
        inputs = to_torch(z), *(to_torch(x).long() for x in labels)
        with torch.no_grad():
            images = torch.func.functional_call(called, tensors, inputs, tie_weights=False)
        shape: tuple[int, ...] = images.shape if isinstance(images, torch.Tensor) else ()
        square = len(shape) == 4 and shape[1] in (1, 3) and shape[2] == shape[3]
        if not square or not images.is_floating_point():
            made = f"{images.dtype} {tuple(shape)}" if shape else f"a {type(images).__name__}"
            raise ValueError(
                f"call returns {made}; expected a floating tensor [n, 1 or 3, h, h] in [-1, 1]"
            )
        return images.permute(0, 2, 3, 1).float().cpu().numpy()

    f.__wrapped__ = call  # type: ignore[attr-defined]  # for `code_hash`
    called, device = Called().eval(), next(module.parameters()).device
    # Each tensor once, and all its places: tied weights. Torch does not restore layers given twice.
    once = {id(x): path for path, x in (*module.named_parameters(), *module.named_buffers())}
    places = {
        f"module.{name}": once[id(x)]
        for prefix, part in module.named_modules()
        for named in (part.named_parameters, part.named_buffers)
        for name, x in named(prefix, recurse=False, remove_duplicate=False)
    }
    tensors = {path: x.cpu() for path, x in module.state_dict().items() if path in places.values()}
    arrays = {
        path: (x.float() if x.is_floating_point() else x).numpy() for path, x in tensors.items()
    }
    if under := next(filter(_UNDER_NORM.fullmatch, arrays), ""):
        raise ValueError(
            f"{name}: {under} is a weight under a norm, which the layer does not use as it is; for "
            "each such layer call torch.nn.utils.parametrize.remove_parametrizations(layer, "
            "'weight') (older norms: .eval(), then remove_spectral_norm or remove_weight_norm)"
        )
    classes = tuple(getattr(torch.nn, f"ConvTranspose{i}d") for i in (1, 2, 3))
    transposed = [
        f"{path}.weight".lstrip(".") for path, x in module.named_modules()
        if isinstance(x, classes) or getattr(x, "original_name", "").startswith("ConvTranspose")
    ]  # fmt: skip
    return f, arrays, {re.escape(path): 1 for path in transposed if path in arrays}
