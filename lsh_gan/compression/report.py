"""What a compression did, tensor by tensor and in total."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float32

from lsh_gan.compression.files import file_bytes
from lsh_gan.compression.packing import empty_subtrees, layout_of
from lsh_gan.compression.rules import Params, TensorPlan, join
from lsh_gan.compression.spec import CompressionSpec
from lsh_gan.compression.tree import QuantizedTensor, dequantize_tensor, quantize_tree


class TensorReport(NamedTuple):
    """One quantized or kept tensor."""

    path: str  #: keys joined by "/"
    shape: tuple[int, ...]  #: shape of the tensor
    rule: str  #: pattern of the rule that decided, or "default"
    #: Width of a code; None where the tensor stays float32, and then all below but `bytes` is None.
    bits: int | None
    bytes: int  #: payload of the tensor in the packed file
    clipping: str | None = None  #: as in `CompressionSpec`
    granularity: str | None = None  #: likewise
    scheme: str | None = None  #: likewise
    channel_axis: int | None = None  #: output axis, counted from 0
    #: Float32 `[groups, channels]` (`[1, 1]` per tensor), clipping thresholds. This and the two
    #: below are None of parameters that are traced.
    alpha: Float32[np.ndarray, "#groups #channels"] | None = None
    share_clipped: float | None = None  #: share of values beyond their threshold, 0 to 1
    #: Signal to quantization noise ratio in dB; inf where nothing was lost.
    sqnr_db: float | None = None
    #: Share of exact zeros, where they made "symmetric" give way to "affine"; else 0.
    pruned: float | None = None


class CompressionReport(NamedTuple):
    """A compressed tree."""

    tensors: tuple[TensorReport, ...]  #: one report a tensor, in tree order
    bytes: int  #: size of the packed file in bytes, header included, without caller's metadata
    float32_bytes: int  #: four bytes a parameter
    num_parameters: int  #: values in the tree

    @property
    def ratio(self) -> float:
        """float32 bytes over packed bytes."""
        return self.float32_bytes / self.bytes

    @property
    def bits_per_parameter(self) -> float:
        """Packed bits over parameters, everything in the file included."""
        return 8 * self.bytes / self.num_parameters


def _sqnr_db(quantized: QuantizedTensor) -> float:
    unit = np.asarray(quantized.max_abs, np.float64) ** 2
    signal, noise = ((unit * np.asarray(x)).sum() for x in (quantized.signal, quantized.noise))
    return float(10 * np.log10(signal / noise)) if noise > 0 else float("inf")


def _tensor_report(
    plan: TensorPlan, shape: tuple[int, ...], quantized: QuantizedTensor | None
) -> TensorReport:
    num_bytes = layout_of(plan, shape).num_bytes()
    kept = TensorReport(join(plan.path), shape, plan.rule, plan.spec.bits, num_bytes)
    if quantized is None:
        return kept
    spec = plan.spec
    kept = kept._replace(
        clipping=spec.clipping,
        granularity=spec.granularity,
        scheme=spec.scheme,
        channel_axis=plan.channel_axis,
        pruned=plan.pruned,
    )
    if isinstance(quantized.alpha, jax.core.Tracer):
        return kept
    return kept._replace(
        alpha=np.asarray(quantized.alpha)[:, 0],
        share_clipped=float(
            np.asarray(quantized.num_clipped, np.float64).sum() / quantized.codes.size
        ),
        sqnr_db=_sqnr_db(quantized),
    )


def compress(
    params: Params, spec: CompressionSpec, *, channel_axes: Mapping[str, int] | None = None
) -> tuple[Any, CompressionReport]:
    """Rounds a parameter tree onto quantization grids; may be jitted (`spec` static).

    Under `jit` values are not known: NaN is not refused, pruned tensors keep a symmetric grid, and
    the report has sizes alone.

    Args:
        params: Any tree of floating arrays: parameters, or whole variables with statistics. Paths
            are its keys, attributes, and numbers in lists, joined by "/".
        spec: The compression; `bits=None` returns the tree unchanged.
        channel_axes: Path pattern -> output axis, as the generator declares it; default -1 (every
            Flax kernel). First match wins; the report says which it was.

    Returns:
        The same tree with float32 arrays, each quantized one on its grid, and the report.

    Raises:
        TypeError: A leaf that is not a floating array, or no tree but one array.
        ValueError: NaN or Inf (path and index), an empty tree, a rule that matches nothing, a group
            size that does not divide, a width given but nothing to quantize, or a threshold of 0.
    """
    quantized, treedef = quantize_tree(params, spec, channel_axes)
    leaves = [
        leaf
        if codes is None
        else dequantize_tensor(
            codes.codes, codes.grid, shape=leaf.shape, channel_axis=plan.channel_axis
        )
        for plan, leaf, codes in quantized
    ]
    report = report_quantized(quantized, empty_subtrees(params))
    return jax.tree_util.tree_unflatten(treedef, leaves), report


def report_quantized(
    quantized: Sequence[tuple[TensorPlan, jax.Array, QuantizedTensor | None]],
    empty: tuple[tuple[str, ...], ...],
) -> CompressionReport:
    """The report of what `quantize_tree` returns."""
    reports = [_tensor_report(plan, leaf.shape, codes) for plan, leaf, codes in quantized]
    layouts = [layout_of(plan, leaf.shape) for plan, leaf, _ in quantized]
    size = sum(leaf.size for _, leaf, _ in quantized)
    return CompressionReport(tuple(reports), file_bytes(layouts, empty, {}), 4 * size, size)


_COLUMNS = ("tensor", "shape", "axis", "bits", "alpha", "clipped", "SQNR dB", "bytes")


def _cells(tensor: TensorReport) -> tuple[str, ...]:
    shape, size = "x".join(map(str, tensor.shape)), f"{tensor.bytes:,}"
    if tensor.bits is None:
        return tensor.path, shape, "", "float32", "", "", "", size
    where = tensor.path, shape, str(tensor.channel_axis), str(tensor.bits)
    if tensor.alpha is None:
        return *where, "", "", "", size
    alpha, clipped = float(np.median(tensor.alpha)), tensor.share_clipped
    return *where, f"{alpha:.4g}", f"{clipped:.3%}", f"{tensor.sqnr_db:.1f}", size


def format_report(report: CompressionReport) -> str:
    """The report as a text table: a line a tensor (axis: of output channels; alpha: its median)."""
    rows = [_COLUMNS, *(_cells(tensor) for tensor in report.tensors)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    ]
    lines += [
        f"{tensor.path} is pruned ({tensor.pruned:.0%} zeros): its grid is affine"
        + (", which keeps 0" if tensor.bits != 1 else "; 1 bit has no level at 0")
        for tensor in report.tensors
        if tensor.pruned
    ]
    lines.append(
        f"{report.bytes:,} bytes, {report.ratio:.2f} times smaller than float32,"
        f" {report.bits_per_parameter:.2f} bits a parameter"
    )
    return "\n".join(lines)
