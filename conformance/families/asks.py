"""What users ask of a model apart from the checkpoint's own options: another pool, no class token, fewer blocks.

An ask is a dict of options that replace those of ``arch``. A loader has two right answers to each: every trained tensor is where
it belongs, or the load is refused. A family names the asks that its model's constructor takes (``Family.asks``).
"""

from __future__ import annotations

from typing import Any

from .base import Arch
from .shapes import pools_by_average

Asks = tuple[dict[str, Any], ...]
NAFLEX = {"use_naflex": True}

_AVERAGING = ("avg", "avgmax", "max")


def pools(arch: Arch, *others: str) -> Asks:
    """The other ``global_pool`` of those named, with the final norm before the pool and after it; and the norm moved alone.

    Fine-tuning by mean pooling asks for ``avg`` with ``fc_norm``; DINOv2's users ask for it without.
    """
    found: list[dict[str, Any]] = []
    for pool in others:
        if pool != arch.get("global_pool", "token") and (pool != "token" or arch["class_token"]):
            found.append({"global_pool": pool, "fc_norm": False})
            found += [{"global_pool": pool, "fc_norm": True}] if pool in _AVERAGING else []
    if arch.get("final_norm", True):
        found.append({"fc_norm": not pools_by_average(arch)})
    return tuple(found)


def prefix_tokens(arch: Arch) -> Asks:
    """A class token less or more, a register token less or more or none, and rows of ``pos_embed`` for them or none."""
    own = arch["reg_tokens"]
    found: list[dict[str, Any]] = [{"reg_tokens": count} for count in sorted({own + 1, max(own - 1, 0), 0} - {own})]
    if not arch["class_token"]:
        found.append({"class_token": True})
    elif arch.get("global_pool", "token") == "token":
        found.append({"class_token": False, "global_pool": "avg", "fc_norm": False})
    else:
        found.append({"class_token": False})
    if arch.get("pos_embed") != "none":
        found.append({"no_embed_class": not arch.get("no_embed_class", False)})
    return tuple(found)


def flags(arch: Arch, **defaults: bool) -> Asks:
    """The opposite of each boolean option; the values given are those of an ``arch`` that lacks the option."""
    return tuple({name: not arch.get(name, default)} for name, default in defaults.items())


def positions(arch: Arch) -> Asks:
    """No positions where the checkpoint has some, and the other way round."""
    return ({"pos_embed": "learn" if arch.get("pos_embed") == "none" else "none"},)


def depths(arch: Arch) -> Asks:
    """A model of one block more, and of one less."""
    return tuple({"depth": depth} for depth in (arch["depth"] + 1, arch["depth"] - 1) if depth)


def blocks(arch: Arch) -> Asks:
    """A model of another depth, or with and without biases, norms and scales in its blocks, or without a final norm."""
    return depths(arch) + flags(arch, qkv_bias=True, qk_norm=False, layer_scale=False, final_norm=True)


_POOLS = ("avg", "token", "avgmax", "max", "map", "")


def encoder(arch: Arch) -> Asks:
    """The asks of any encoder of one stage. Blocks with norms after attention and MLP have no norm of queries and keys."""
    inside = tuple(ask for ask in blocks(arch) if not (arch.get("post_norm") and "qk_norm" in ask))
    return pools(arch, *_POOLS) + prefix_tokens(arch) + positions(arch) + inside


def eva(arch: Arch) -> Asks:
    """The asks of an Eva; one of them is a NaFlexViT in its place."""
    return (*encoder(arch), NAFLEX)


def pre_norm(arch: Arch) -> Asks:
    """The asks of a VisionTransformer whose function builds no NaFlexViT."""
    return encoder(arch) + flags(arch, pre_norm=False)


def vision_transformer(arch: Arch) -> Asks:
    """The asks of a VisionTransformer; one of them is a NaFlexViT in its place."""
    return (*pre_norm(arch), NAFLEX)


def naflex(arch: Arch) -> Asks:
    """The asks of a NaFlexViT, whose positions have no rows for prefix tokens."""
    tokens = tuple(ask for ask in prefix_tokens(arch) if "no_embed_class" not in ask)
    factorized = () if arch.get("pos_embed") == "none" else ({"pos_embed": "factorized"},)
    return pools(arch, *_POOLS) + tokens + factorized + blocks(arch)
