"""Google's Flax checkpoints: the original Vision Transformer and its ResNet hybrids, big_vision, SigLIP's MAP head.

Sources: ``google-research/vision_transformer`` ``vit_jax/models_vit.py`` (block names of its pre-Linen ancestor, in which
all published files are); ``google-research/big_vision`` ``big_vision/models/vit.py``, and
``big_vision/models/proj/flexi/vit.py``, whose kernels and grids are stored at underlying sizes and resized with a plain
half-pixel bilinear; ``big_vision/models/proj/image_text/naflex_vit.py``, with a dense patch kernel and positions as a grid.
Kernels are ``(h, w, in, out)``, dense ones ``(in, out)``, attention has an axis for heads; flax's ``gelu`` is the tanh
approximation. Names here are without prefix and with blocks one by one (``reference/flax.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..forward import ACTIVATIONS, attend, num_blocks, patchify
from ..resize import BILINEAR
from ..stems import UPSTREAM, count_units, features
from .naflex_native import to_conv
from .rules import Drop, Facts, Fold, Format, Rename, Rule, transpose

_EPS = 1e-6
_GELU = ACTIVATIONS["gelu_tanh"]
_POSITIONS = {False: "Transformer/posembed_input/pos_embedding", True: "pos_embedding"}


# -- layouts -----------------------------------------------------------------------------------------------------------


def _oihw(kernel: Tensor, facts: Facts) -> Tensor:
    """A convolution's kernel ``(out, in, h, w)``. A dense one ``(h * w * in, out)`` (NaFlex) gives neither ``h`` nor ``w``."""
    if kernel.ndim == 2:
        return to_conv(kernel.T, replace(facts, channels_last=True))
    return kernel.permute(3, 2, 0, 1).contiguous()


def _hwio(kernel: Tensor, facts: Facts) -> Tensor:
    return kernel.T.contiguous() if kernel.ndim == 2 else kernel.permute(2, 3, 1, 0).contiguous()


def _positions_in(positions: Tensor, facts: Facts) -> Tensor:
    """Positions from a list ``(1, n, dim)`` or a grid ``(h, w, dim)`` (NaFlex). A grid of one row looks like a list."""
    return positions if len(positions) == 1 else positions[None]


def _positions_out(positions: Tensor, facts: Facts) -> Tensor:
    return positions if positions.ndim == 3 else positions[0]


def _flat(tensor: Tensor, facts: Facts) -> Tensor:
    return tensor.flatten()


def _as_image(tensor: Tensor, facts: Facts) -> Tensor:
    return tensor[None, None, None]


def _fused(part: str, *tensors: Tensor) -> tuple[Tensor]:
    """Kernels ``(dim, heads, head_dim)`` or biases ``(heads, head_dim)`` as linear layers, stacked along the first axis."""
    if part == "bias":
        return (torch.cat([t.flatten() for t in tensors[:-1]]),)
    return (torch.cat([t.flatten(1).T for t in tensors[:-1]]),)


def _split(part: str, count: int, whole: Tensor, facts: Facts) -> tuple[Tensor, ...]:
    heads = facts.num_heads
    if part == "bias":
        return tuple(t.reshape(heads, -1) for t in whole.chunk(count))
    return tuple(t.T.reshape(t.shape[1], heads, -1) for t in whole.chunk(count))


def _attention_in(upstream: str, names: tuple[str, ...], timm: str) -> tuple[Fold, ...]:
    return tuple(
        Fold(
            tuple(f"{upstream}{n}/{flax}" for n in names),
            (f"{timm}.{part}",),
            partial(_fused, part),
            partial(_split, part, len(names)),
        )
        for part, flax in (("weight", "kernel"), ("bias", "bias"))
    )


def _out(kernel: Tensor, facts: Facts) -> Tensor:
    return kernel.flatten(0, 1).T.contiguous()


def _heads_out(weight: Tensor, facts: Facts) -> Tensor:
    return weight.T.reshape(facts.num_heads, -1, len(weight))


def _attention_out(upstream: str, timm: str) -> tuple[Rename, ...]:
    return (
        Rename(f"{upstream}out/kernel", f"{timm}.weight", _out, _heads_out),
        Rename(f"{upstream}out/bias", f"{timm}.bias"),
    )


def _dense(upstream: str, timm: str) -> tuple[Rename, ...]:
    return (
        Rename(f"{upstream}/kernel", f"{timm}.weight", transpose, transpose),
        Rename(f"{upstream}/bias", f"{timm}.bias"),
    )


def _norm(upstream: str, timm: str) -> tuple[Rename, ...]:
    return Rename(f"{upstream}/scale", f"{timm}.weight"), Rename(f"{upstream}/bias", f"{timm}.bias")


def _stem(upstream: str, timm: str, conv: str = "conv", norm: str = "norm", suffix: str = "") -> tuple[Rename, ...]:
    """One convolution without bias and its GroupNorm, whose parameters are stored as ``(1, 1, 1, channels)``."""
    return (
        Rename(f"{upstream}conv{suffix}/kernel", f"{timm}{conv}.weight", _oihw, _hwio),
        Rename(f"{upstream}gn{suffix}/scale", f"{timm}{norm}.weight", _flat, _as_image),
        Rename(f"{upstream}gn{suffix}/bias", f"{timm}{norm}.bias", _flat, _as_image),
    )


def _pre_logits(out: Mapping[str, Tensor], which: str) -> Tensor | None:
    """A representation layer for a checkpoint without a head. A head would read its output, which timm does not compute."""
    if "head/kernel" in out:
        return None
    bias = out["Transformer/encoder_norm/bias"]
    return torch.diag(torch.ones_like(bias)) if which == "kernel" else torch.zeros_like(bias)


# -- rules -------------------------------------------------------------------------------------------------------------


def _names(big_vision: bool) -> tuple[str, str, str]:
    """Names of attention, MLP and second norm of a block. Linen counts each kind of layer, older flax all layers together."""
    attention, mlp, norm = (0, 0, 1) if big_vision else (1, 3, 2)
    return f"MultiHeadDotProductAttention_{attention}/", f"MlpBlock_{mlp}/", f"LayerNorm_{norm}"


def _rules(big_vision: bool) -> tuple[Rule, ...]:
    attention, mlp, second = _names(big_vision)
    block, map_head = "Transformer/encoderblock_{i}/", "MAPHead_0/"
    rules: tuple[Rule, ...] = (
        Rename("embedding/kernel", "patch_embed.proj.weight", _oihw, _hwio),
        Rename("embedding/bias", "patch_embed.proj.bias"),
        Rename("cls", "cls_token"),
        Rename(_POSITIONS[big_vision], "pos_embed", _positions_in, _positions_out),
        *_norm(f"{block}LayerNorm_0", "blocks.{i}.norm1"),
        *_norm(f"{block}{second}", "blocks.{i}.norm2"),
        *_attention_in(f"{block}{attention}", ("query", "key", "value"), "blocks.{i}.attn.qkv"),
        *_attention_out(f"{block}{attention}", "blocks.{i}.attn.proj"),
        *_dense(f"{block}{mlp}Dense_0", "blocks.{i}.mlp.fc1"),
        *_dense(f"{block}{mlp}Dense_1", "blocks.{i}.mlp.fc2"),
        *_norm("Transformer/encoder_norm", "norm"),
        *_dense("head", "head"),
        Drop("pre_logits/kernel", lambda out: _pre_logits(out, "kernel")),
        Drop("pre_logits/bias", lambda out: _pre_logits(out, "bias")),
    )
    if not big_vision:
        return rules
    inner = f"{map_head}MultiHeadDotProductAttention_0/"
    return (
        *rules,
        Rename(f"{map_head}probe", "attn_pool.latent"),
        *_attention_in(inner, ("query",), "attn_pool.q"),
        *_attention_in(inner, ("key", "value"), "attn_pool.kv"),
        *_attention_out(inner, "attn_pool.proj"),
        *_norm(f"{map_head}LayerNorm_0", "attn_pool.norm"),
        *_dense(f"{map_head}MlpBlock_0/Dense_0", "attn_pool.mlp.fc1"),
        *_dense(f"{map_head}MlpBlock_0/Dense_1", "attn_pool.mlp.fc2"),
    )


def _stages() -> tuple[Rename, ...]:
    """Bottleneck units of up to four stages of up to nine (R50 has 3, 4 and 9)."""
    rules: list[Rename] = []
    for stage in range(4):
        for unit in range(9):
            upstream = f"block{stage + 1}/unit{unit + 1}/"
            timm = f"patch_embed.backbone.stages.{stage}.blocks.{unit}."
            for n in (1, 2, 3):
                rules += _stem(upstream, timm, f"conv{n}", f"norm{n}", str(n))
            rules += _stem(upstream, timm, "downsample.conv", "downsample.norm", "_proj")
    return tuple(rules)


# -- forward -----------------------------------------------------------------------------------------------------------


def _layer_norm(x: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    return torch.nn.functional.layer_norm(x, x.shape[-1:], state[f"{name}/scale"], state[f"{name}/bias"], _EPS)


def _dense_of(x: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    return x @ state[f"{name}/kernel"] + state[f"{name}/bias"]


def _attention(x: Tensor, source: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    """Attention of ``x`` over ``source``. The stored kernels give the number of heads."""
    q, k, v = (
        torch.einsum("bnd,dhe->bnhe", t, state[f"{name}{n}/kernel"]).add(state[f"{name}{n}/bias"]).flatten(2)
        for t, n in ((x, "query"), (source, "key"), (source, "value"))
    )
    out = state[f"{name}out/kernel"]
    heads = attend(q, k, v, len(out)).unflatten(2, out.shape[:2])
    return torch.einsum("bnhe,hed->bnd", heads, out) + state[f"{name}out/bias"]


def _mlp(x: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    return _dense_of(_GELU(_dense_of(x, state, f"{name}Dense_0")), state, f"{name}Dense_1")


def _forward(big_vision: bool, state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Logits, or pooled features without a head. The pool is the MAP head, the class token or the mean, as in the file.

    ``arch["pre_logits"]`` false leaves out the representation layer, which timm's models do not have.
    """
    attention, mlp, second = _names(big_vision)
    x = image
    if "conv_root/kernel" in state:
        x = _stem_forward(state, image, arch)
    kernel = state["embedding/kernel"]
    kernel = kernel.unflatten(0, (*arch["patch_size"], -1)) if kernel.ndim == 2 else kernel
    x = patchify(x, kernel.permute(3, 2, 0, 1), state["embedding/bias"])
    positions = state[_POSITIONS[big_vision]].reshape(1, -1, x.shape[-1])
    x = x + positions if big_vision else x
    if "cls" in state:
        x = torch.cat([state["cls"].expand(len(x), -1, -1), x], dim=1)
    x = x if big_vision else x + positions
    for i in range(num_blocks(state, "Transformer/encoderblock_{i}/LayerNorm_0/scale")):
        block = f"Transformer/encoderblock_{i}/"
        y = _layer_norm(x, state, f"{block}LayerNorm_0")
        x = x + _attention(y, y, state, f"{block}{attention}")
        x = x + _mlp(_layer_norm(x, state, f"{block}{second}"), state, f"{block}{mlp}")
    x = _layer_norm(x, state, "Transformer/encoder_norm")
    if "MAPHead_0/probe" in state:
        y = _attention(
            state["MAPHead_0/probe"].expand(len(x), -1, -1), x, state, "MAPHead_0/MultiHeadDotProductAttention_0/"
        )
        x = (y + _mlp(_layer_norm(y, state, "MAPHead_0/LayerNorm_0"), state, "MAPHead_0/MlpBlock_0/"))[:, 0]
    else:
        x = x[:, 0] if "cls" in state else x.mean(dim=1)
    if "pre_logits/kernel" in state and arch.get("pre_logits", True):
        x = torch.tanh(_dense_of(x, state, "pre_logits"))
    return _dense_of(x, state, "head") if "head/kernel" in state else x


def _stem_forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    def kernel(name: str) -> Tensor | None:
        return state[f"{name}/kernel"].permute(3, 2, 0, 1) if f"{name}/kernel" in state else None

    def affine(name: str) -> tuple[Tensor, Tensor]:
        return state[f"{name}/scale"].flatten(), state[f"{name}/bias"].flatten()

    units = count_units(state, "block{stage}/unit{unit}/conv1/kernel")
    return features(image, kernel, affine, units, arch.get("stem_constants", UPSTREAM))


def _kind(state: Mapping[str, Tensor]) -> str | None:
    if "embedding/kernel" not in state or state["embedding/kernel"].ndim not in (2, 4):
        return None
    if "pos_embedding" in state:
        return "big_vision"
    if _POSITIONS[False] not in state or state["embedding/kernel"].ndim != 4:
        return None
    if "conv_root/kernel" not in state:
        return "google_npz"
    return "google_npz_resnet" if "block1/unit1/conv1/kernel" in state else "google_npz_stem"


def _format(name: str, big_vision: bool, *more: Rule) -> Format:
    return Format(
        name=name,
        namespace="",
        rules=(*more, *_rules(big_vision)),
        evidence=lambda state: _kind(state) == name,
        forward=partial(_forward, big_vision),
        resampling=BILINEAR,
        prefix_rows=not big_vision,
    )


GOOGLE_NPZ = _format("google_npz", False)
GOOGLE_NPZ_STEM = _format("google_npz_stem", False, *_stem("", "patch_embed.backbone.", suffix="_root"))
GOOGLE_NPZ_RESNET = _format(
    "google_npz_resnet", False, *_stem("", "patch_embed.backbone.stem.", suffix="_root"), *_stages()
)
BIG_VISION = _format("big_vision", True)
