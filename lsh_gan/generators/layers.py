"""Layers that several families share; upsampling convolutions that skip inserted zeros.

A transposed convolution with stride 2 computes each of its four output phases from a 2×2 window of
the input; so does nearest-neighbour upsampling followed by a 3×3 convolution. Both therefore reduce
to one dense 2×2 convolution with `4 * out` channels (`phase_conv`), the sub-pixel form of Shi et
al. 2016 (arXiv:1609.05158), which on CPU is an order of magnitude faster than input dilation. Where
it is faster, a CPU uses products of single pixels instead (`_products_of_taps`). All kernels are
HWIO: the output channel is last.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from lsh_gan.devices import on_cpu
from lsh_gan.errors import choose

Pair = tuple[int, int]
DIMENSIONS = ("NHWC", "HWIO", "NHWC")
_SMALL = 64  # pixels


def _conv(x: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
    if kernel.shape[:2] == (1, 1) and not padding:
        return jnp.matmul(x, kernel[0, 0])  # on a CPU twice as fast as XLA's convolution
    pad = ((padding, padding), (padding, padding))
    return lax.conv_general_dilated(x, kernel, (1, 1), pad, dimension_numbers=DIMENSIONS)


# XLA's CPU convolution reaches the speed of a matrix product in the forward pass and for the
# gradient of the input. For the gradient of the kernel, a convolution with a kernel of image size,
# it is up to 90 times slower. One matrix product per tap of the kernel is fast there too.
@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv(x: jax.Array, kernel: jax.Array, padding: int) -> jax.Array:
    """Cross-correlates `x [n, h, w, i]` with `kernel [kh, kw, i, o]` at stride 1, zero padded."""
    return _conv(x, kernel, padding)


def _conv_backward(padding, residuals, gradient):
    x, kernel = residuals
    _, input_vjp = jax.vjp(lambda x: _conv(x, kernel, padding), x)
    rows, columns = gradient.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    flat = gradient.reshape(-1, gradient.shape[-1])
    taps = [
        padded[:, i : i + rows, j : j + columns].reshape(-1, x.shape[-1]).T @ flat
        for i in range(kernel.shape[0])
        for j in range(kernel.shape[1])
    ]
    return *input_vjp(gradient), jnp.stack(taps).reshape(kernel.shape)


conv.defvjp(lambda x, kernel, padding: (_conv(x, kernel, padding), (x, kernel)), _conv_backward)
conv_1x1 = partial(conv, padding=0)
conv_3x3 = partial(conv, padding=1)


def conv_by_groups(
    x: jax.Array, kernel: jax.Array, strides: Any, pads: Any, *, feature_group_count: int,
    **options: Any,
) -> jax.Array:  # fmt: skip
    """Applies `lax.conv_general_dilated` with `DIMENSIONS`; on a CPU, to one group after another.

    Maps `x [n, h, w, c]` by `kernel [kh, kw, c / groups, features]` to `[n, h', w', features]`.
    XLA's convolution with groups is 2 to 5 times as slow on a CPU, and takes gigabytes.
    """
    groups, inputs = feature_group_count, kernel.shape[2]
    options |= {"dimension_numbers": DIMENSIONS}
    if groups == 1 or inputs == 1 or not on_cpu():
        options |= {"feature_group_count": groups}
        return lax.conv_general_dilated(x, kernel, strides, pads, **options)

    def split(array: jax.Array) -> jax.Array:  # to `[groups, ..., channels of a group]`
        return jnp.moveaxis(array.reshape(*array.shape[:3], groups, -1), 3, 0)

    def run(group: tuple[jax.Array, jax.Array]) -> jax.Array:
        return lax.conv_general_dilated(*group, strides, pads, **options)

    y = lax.map(run, (split(x), split(kernel)))
    return lax.collapse(jnp.moveaxis(y, 0, 3), 3)


OUTPUTS: dict[str, Callable] = {"tanh": jnp.tanh, "sigmoid": nn.sigmoid, "none": lambda x: x}


def pixel_norm(x: jax.Array) -> jax.Array:
    """Scales `x [..., c]` to a mean square of 1 over channels."""
    return x * lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-8)


def phase_conv(x: jax.Array, phases: jax.Array) -> jax.Array:
    """Doubles the resolution: each output phase (a, b) is a separate 2×2 convolution of the input.

    Maps `x [n, h, w, i]` to `[n, 2h, 2w, o]` by `phases [2, 2, 2, 2, i, o]`, whose axes are row
    tap, row phase, column tap, column phase, i, o.
    """
    n, h, w, _ = x.shape
    inputs, outputs = phases.shape[-2:]
    kernel = phases.transpose(0, 2, 4, 1, 3, 5).reshape(2, 2, inputs, 4 * outputs)
    y = conv(x, kernel, 1).reshape(n, h + 1, w + 1, 2, 2, outputs)
    return interleave([[y[:, a : a + h, b : b + w, a, b] for b in (0, 1)] for a in (0, 1)])


def interleave(phases: Iterable[Iterable[jax.Array]]) -> jax.Array:
    """Interleaves `phases[row][column]`, each `[n, h, w, c]`, to one image `[n, 2h, 2w, c]`."""
    rows = jnp.stack([jnp.stack(list(columns), axis=3) for columns in phases], axis=2)
    return lax.collapse(lax.collapse(rows, 3, 5), 1, 3)


def conv_transpose_4x4(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Applies PyTorch's `ConvTranspose2d(4, 2, 1)`: kernel 4, stride 2, padding 1.

    Maps `x [n, h, w, i]` to `[n, 2h, 2w, o]` by `kernel [4, 4, i, o]`; tap (0, 0) reaches furthest
    up and left in the output.
    """
    if on_cpu() and x.shape[1] * x.shape[2] <= _SMALL:
        # In such a small image most of the 2×2 windows lie on the border.
        return _products_of_taps(x, kernel, _transposed_phases)
    return phase_conv(x, kernel[::-1, ::-1].reshape(2, 2, 2, 2, *kernel.shape[2:]))


def upsample_conv_3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Upsamples by 2 (nearest), then convolves 3×3 with padding 1, as one operation.

    Maps `x [n, h, w, i]` to `[n, 2h, 2w, o]` by `kernel [3, 3, i, o]`.
    """
    if _products_pay(x):
        return _products_of_taps(x, kernel, _nearest_phases)
    for axis in (0, 2):
        first, middle, last = (lax.index_in_dim(kernel, i, axis, keepdims=False) for i in range(3))
        even = jnp.stack([first, middle + last], axis)
        odd = jnp.stack([first + middle, last], axis)
        kernel = jnp.stack([even, odd], axis + 1)
    return phase_conv(x, kernel)


def upsample_bilinear_conv_3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Upsamples by 2 (`upsample_bilinear`, "edge"), then convolves 3×3 with padding 1.

    Maps `x [n, h, w, i]` to `[n, 2h, 2w, o]` by `kernel [3, 3, i, o]`.
    """
    if _products_pay(x):
        return _products_of_taps(x, kernel, _bilinear_phases)
    return conv(upsample_bilinear(x, mode="edge"), kernel, 1)


def _products_pay(x: jax.Array) -> bool:
    # Measured on CPU: 1.5 to 2 times faster from 256 channels on. With fewer it is slower: the
    # sums of the nine products, which are bound by memory, take longer than the products.
    return on_cpu() and x.shape[-1] >= 256


def _products_of_taps(x: jax.Array, kernel: jax.Array, phases: Callable) -> jax.Array:
    """Upsamples and convolves k×k by one matrix product with the pixels of the small image.

    Each tap of `kernel [k, k, i, o]` is applied to `x [n, h, w, i]`, and the k² results are
    upsampled, shifted and added. `phases` combines k arrays, one per tap, to the even and the odd
    outputs along an axis.
    """
    n, h, w, inputs = x.shape
    size = len(kernel)
    products = x.reshape(-1, inputs) @ kernel.transpose(2, 0, 1, 3).reshape(inputs, -1)
    taps = jnp.split(products.reshape(n, h, w, -1), size**2, axis=-1)
    columns = [phases(taps[column::size], 1) for column in range(size)]
    return interleave(phases([column[row] for column in columns], 2) for row in (0, 1))


def pad_axis(x: jax.Array, axis: int, before: int, behind: int, between: int = 0) -> jax.Array:
    """Adds this many zeros before, behind and between elements of an axis; negative: crops."""
    pad = [(0, 0, 0)] * x.ndim
    pad[axis] = (before, behind, between)
    return lax.pad(x, jnp.zeros((), x.dtype), pad)


def _transposed_phases(taps: list[jax.Array], axis: int) -> tuple[jax.Array, jax.Array]:
    even = taps[1] + pad_axis(taps[3], axis, 1, -1)
    return even, taps[2] + pad_axis(taps[0], axis, -1, 1)


def _nearest_phases(taps: list[jax.Array], axis: int) -> tuple[jax.Array, jax.Array]:
    first, middle, last = taps
    even = pad_axis(first, axis, 1, -1) + middle + last
    return even, first + middle + pad_axis(last, axis, -1, 1)


def _bilinear_phases(taps: list[jax.Array], axis: int) -> tuple[jax.Array, jax.Array]:
    """Combines taps as if each were upsampled, with fewer arrays, which is faster on a CPU.

    Upsampling repeats the border, and the convolution after it sees zeros beyond.
    """
    first, middle, last = taps
    size, place = first.shape[axis], lax.broadcasted_iota(jnp.int32, first.shape, axis)

    def joined(x: jax.Array, *bounds: tuple[int, int]) -> jax.Array:
        return jnp.concatenate([lax.slice_in_dim(x, *b, axis=axis) for b in bounds], axis)

    def before(x: jax.Array) -> jax.Array:
        return joined(x, (0, 1), (0, size - 1))

    def after(x: jax.Array) -> jax.Array:
        return joined(x, (1, size), (size - 1, size))

    from_before = jnp.where(place > 0, 0.75 * before(first) + 0.25 * first, 0)
    from_after = jnp.where(place < size - 1, 0.25 * last + 0.75 * after(last), 0)
    even = from_before + 0.25 * before(middle) + 0.75 * (middle + last) + 0.25 * after(last)
    odd = 0.25 * before(first) + 0.75 * (first + middle) + 0.25 * after(middle) + from_after
    return even, odd


def bilinear(x: jax.Array, axis: int, mode: str = "edge") -> tuple[jax.Array, jax.Array]:
    """Computes the even and the odd outputs of `upsample_bilinear` along an axis."""
    pad = [(0, 0)] * x.ndim
    pad[axis] = (1, 1)
    padded, size = jnp.pad(x, pad, mode=mode), x.shape[axis]
    before, after = (lax.slice_in_dim(padded, i, i + size, axis=axis) for i in (0, 2))
    return 0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after


def upsample_bilinear(x: jax.Array, *, mode: str) -> jax.Array:
    """Doubles the resolution: each output is 3/4 of the nearest input and 1/4 of the next one.

    Maps `x [n, h, w, c]` to `[n, 2h, 2w, c]`. Beyond the border, mode "edge" repeats the border, as
    PyTorch's `bilinear` with `align_corners=False` does; "constant" has zeros, as StyleGAN's filter
    [1, 3, 3, 1] does.
    """
    for axis in (1, 2):
        x = lax.collapse(jnp.stack(bilinear(x, axis, mode), axis + 1), axis, axis + 2)
    return x


# For each mode: upsampling and a 3×3 convolution as one operation, and the upsampling alone.
UPSAMPLINGS: dict[str, tuple[Callable, Callable]] = {
    "nearest": (upsample_conv_3x3, lambda x: x.repeat(2, axis=1).repeat(2, axis=2)),
    "bilinear": (upsample_bilinear_conv_3x3, partial(upsample_bilinear, mode="edge")),
}


def conv_transpose(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: Pair,
    padding: Pair,
    output_padding: Pair,
    dilation: Pair,
    groups: int = 1,
) -> jax.Array:
    """Applies PyTorch's `ConvTranspose2d`; settings are pairs, for rows and for columns.

    Maps `x [n, h, w, i]` to `[n, h', w', o]` by `kernel [kh, kw, i / groups, o]`; tap (0, 0)
    reaches furthest up and left in the output.
    """
    geometry = (kernel.shape[:2], stride, padding, output_padding, dilation, groups)
    if geometry == ((4, 4), (2, 2), (1, 1), (0, 0), (1, 1), 1):
        return conv_transpose_4x4(x, kernel)
    if x.shape[1:3] == (1, 1) and geometry[2:] == ((0, 0), (0, 0), (1, 1), 1):
        return jnp.einsum("ni,hwio->nhwo", x[:, 0, 0], kernel)
    reach = [d * (k - 1) for d, k in zip(dilation, kernel.shape, strict=False)]
    pads = [(r - p, r - p + o) for r, p, o in zip(reach, padding, output_padding, strict=True)]
    return lax.conv_general_dilated(
        x, kernel[::-1, ::-1], (1, 1), pads, lhs_dilation=stride, rhs_dilation=dilation,
        dimension_numbers=DIMENSIONS, feature_group_count=groups,
    )  # fmt: skip


class Convolution(nn.Module):
    """A convolution layer around one of the functions above, with an optional bias."""

    features: int  # number of output channels
    kernel_size: int | Pair  # side of a square kernel, or its height and width
    # Maps (`x [n, h, w, i]`, `kernel [k, k, i, features]`) to `[n, h', w', features]`.
    function: Callable[[jax.Array, jax.Array], jax.Array]
    use_bias: bool = True  # whether to add `bias [features]`
    kernel_init: nn.initializers.Initializer = nn.initializers.normal(0.02)
    groups: int = 1  # groups of channels that `function` does not mix; the kernel has i / groups

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `x [n, h, w, i]` to `[n, h', w', features]`."""
        size = self.kernel_size
        sides = (size, size) if isinstance(size, int) else size
        shape = (*sides, x.shape[-1] // self.groups, self.features)
        y = self.function(x, self.param("kernel", self.kernel_init, shape))
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,))
        return y


Convolution1x1 = partial(Convolution, kernel_size=1, function=conv_1x1)


def to_image(x: jax.Array, channels: int, output: str, **options: Any) -> jax.Array:
    """Applies a 3×3 `Convolution` named "to_image", then the function of `OUTPUTS`."""
    convolution = Convolution(channels, 3, conv_3x3, name="to_image", **options)
    return choose("output", output, OUTPUTS)(convolution(x))


def one_hot(labels: jax.Array | None, n: int, num_classes: int) -> jax.Array:
    """Returns class weights, float32 `[n, num_classes]`.

    Labels are classes `[n]` (integer), or weights of the classes `[n, num_classes]` (float, a
    mixture of classes); None means class 0, to infer shapes.
    """
    if labels is None:
        labels = jnp.zeros(n, jnp.int32)
    if labels.ndim == 2:
        return labels.astype(jnp.float32)
    return jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)


class ClassEmbedding(nn.Module):
    """A learnt vector for each class."""

    features: int  # size of the vector

    @nn.compact
    def __call__(self, classes: jax.Array) -> jax.Array:
        """Maps class weights `[n, k]` to `[n, features]`."""
        shape = (classes.shape[-1], self.features)
        table = self.param("embedding", nn.initializers.normal(1.0), shape)
        return jnp.matmul(classes, table, precision="highest")  # exact, like a look-up
