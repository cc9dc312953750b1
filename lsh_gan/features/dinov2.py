"""DINOv2: vision transformers; the class token gives 384 to 1024 features per image.

The networks are those of Oquab et al. 2023 (arXiv:2304.07193). Of the networks that Stein et al.
2023 (arXiv:2306.04675) compared, ViT-L/14 agreed best with human judgement of generated images.
Images have 224 × 224 pixels, thus 16 × 16 patches.
"""

import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from lsh_gan import tensor_files
from lsh_gan.features.layers import Conv, plain_layer
from lsh_gan.features.resizing import cubic

SIDE = 224
_PATCH = 14
_GRID = SIDE // _PATCH  # patches per side
_HIGHEST = lax.Precision.HIGHEST
_NAMES = (  # patterns of names in the package transformers -> their names in the original
    (r"^embeddings\.position_embeddings", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^embeddings\.", ""),
    (r"^encoder\.layer\.", "blocks."),
    (r"\.attention\.output\.dense", ".attn.proj"),
    (r"\.attention\.attention\.", ".attn."),
    (r"\.layer_scale(\d)\.lambda1", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
)


class DinoV2(nn.Module):
    """The network up to its class token after the last norm; layers are named as in the original.

    The scales of residual branches are folded into the layers before them.
    """

    dim: int
    depth: int
    heads: int

    @nn.compact
    def __call__(self, x):
        """Maps preprocessed images `[n, 224, 224, 3]` to `[n, dim]`."""
        x = Conv(self.dim, (_PATCH, _PATCH), _PATCH, name="patch_embed.proj")(x)
        x = _Tokens(name="tokens")(x.reshape(len(x), -1, self.dim))
        for i in range(self.depth):
            x += self._attend(_norm(f"blocks.{i}.norm1")(x), f"blocks.{i}.attn.")
            y = _dense(4 * self.dim, f"blocks.{i}.mlp.fc1")(_norm(f"blocks.{i}.norm2")(x))
            x += _dense(self.dim, f"blocks.{i}.mlp.fc2")(jax.nn.gelu(y, approximate=False))
        return _norm("norm")(x[:, 0])

    def _attend(self, x, name):
        x = _dense(3 * self.dim, f"{name}qkv")(x)
        query, key, value = jnp.moveaxis(x.reshape(*x.shape[:2], 3, self.heads, -1), 2, 0)
        scores = jnp.einsum("nqhc,nkhc->nhqk", query, key, precision=_HIGHEST)
        shares = jax.nn.softmax(scores * query.shape[-1] ** -0.5)
        found = jnp.einsum("nhqk,nkhc->nqhc", shares, value, precision=_HIGHEST)
        return _dense(self.dim, f"{name}proj")(found.reshape(*x.shape[:2], -1))


class _Tokens(nn.Module):
    """Adds positions to the patch tokens, and puts the class token before them."""

    @nn.compact
    def __call__(self, x):
        first = self.param("first", nn.initializers.zeros, (1, x.shape[2]))
        positions = self.param("positions", nn.initializers.zeros, x.shape[1:])
        return jnp.concatenate([jnp.broadcast_to(first, (len(x), *first.shape)), x + positions], 1)


def _norm(name):
    return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, name=name)


def _dense(features, name):
    return nn.Dense(features, precision=_HIGHEST, name=name)


def read(path: Path) -> dict:
    """Reads weights of the original or of the Hub, and names them as in the original.

    Weights of the Hub (`facebook/dinov2-small`, ...) are named as in the package transformers, with
    separate layers for queries, keys and values. Weights with registers are a ValueError.
    """
    state = {}
    for name, tensor in tensor_files.state_dict(tensor_files.read(path)).items():
        for pattern, original in _NAMES:
            name = re.sub(pattern, original, name)
        state[name] = tensor
    if "register_tokens" in state:
        raise ValueError(f"{path}: holds register_tokens; expected DINOv2 without registers.")
    for name in [name for name in state if ".attn.query." in name]:
        parts = [state[name.replace("query", part)] for part in ("query", "key", "value")]
        state[name.replace("query", "qkv")] = np.concatenate(parts)
    return state


def convert(state: dict, path: tuple[str, ...]) -> dict:
    """Returns the weights of the layer at a path of `DinoV2`, from the result of `read`."""
    name = path[0]
    if name == "tokens":
        positions = state["pos_embed"][0]
        first = state["cls_token"][0] + positions[:1]
        return {"first": first, "positions": _positions(positions[1:])}
    if name == "patch_embed.proj":
        return plain_layer(state, name)
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    if weight.ndim == 1:
        return {"scale": weight, "bias": bias}
    scale = np.float32(1)
    for layer, branch in (("attn.proj", "ls1"), ("mlp.fc2", "ls2")):
        if name.endswith(layer):
            scale = state[f"{name.removesuffix(layer)}{branch}.gamma"]
    return {"kernel": weight.T * scale, "bias": bias * scale}


def _positions(learnt):
    """Interpolates positions of a square of patches to 16 × 16, as the original does.

    The interpolation is bicubic, without antialiasing. Its step is as if the result were a tenth of
    a patch larger.
    """
    count = round(len(learnt) ** 0.5)
    if count == _GRID:
        return learnt
    at = (np.arange(_GRID) + 0.5) * count / (_GRID + 0.1) - 0.5
    weights = cubic(np.abs(np.arange(-2, count + 2) - at[:, None]), -0.75)
    matrix = weights[:, 2:-2]  # beyond the edge, the values at the edge are repeated
    matrix[:, 0] += weights[:, :2].sum(axis=1)
    matrix[:, -1] += weights[:, -2:].sum(axis=1)
    square = learnt.reshape(count, count, -1)
    found = np.einsum("ya,xb,abc->yxc", matrix, matrix, square, optimize=True)
    return found.reshape(_GRID**2, -1).astype(np.float32)
