"""OpenAI CLIP and OpenCLIP image towers (``visual.``), bare and wrapped by DistributedDataParallel.

Sources: ``openai/CLIP`` ``clip/model.py: VisionTransformer``; ``mlfoundations/open_clip``
``src/open_clip/transformer.py: VisionTransformer``. No patch bias; ``proj`` is a bare parameter ``(embed_dim, output_dim)``
applied from the right. Loading another size, open_clip resizes the grid bicubic with antialias
(``src/open_clip/model.py: resize_pos_embed``).

OpenCLIP's towers have options beyond OpenAI's: no ``ln_pre`` (CLIPA), layer scale (``ls_1``, ``ls_2``), and the mean of the
patches in place of the class token, with ``ln_post`` before or after it (``no_ln_pre``, ``ls_init_value``, ``pool_type``,
``final_ln_after_pool`` in ``src/open_clip/model.py: CLIPVisionCfg``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..forward import ACTIVATIONS, layer_norm, linear, num_blocks, patchify, self_attention
from .rules import Facts, Fill, Format, Rename, Rule, batch, transpose, unbatch

BLOCK = "transformer.resblocks.{i}."


def _token(tensor: Tensor, facts: Facts) -> Tensor:
    return tensor[None, None]


def _untoken(tensor: Tensor, facts: Facts) -> Tensor:
    return tensor[0, 0]


def tower(prefix: str = "") -> tuple[Rule, ...]:
    """The rules of a tower whose tensor names begin with ``prefix``. Perception Encoder's towers use them, too."""
    block = prefix + BLOCK
    return (
        Rename(prefix + "class_embedding", "cls_token", _token, _untoken),
        Rename(prefix + "positional_embedding", "pos_embed", batch, unbatch),
        Rename(prefix + "conv1.weight", "patch_embed.proj.weight"),
        Rename(prefix + "ln_pre.{p}", "norm_pre.{p}"),
        Rename(block + "ln_1.{p}", "blocks.{i}.norm1.{p}"),
        Rename(block + "attn.in_proj_{p}", "blocks.{i}.attn.qkv.{p}"),
        Rename(block + "attn.out_proj.{p}", "blocks.{i}.attn.proj.{p}"),
        Rename(block + "ln_2.{p}", "blocks.{i}.norm2.{p}"),
        Rename(block + "mlp.c_fc.{p}", "blocks.{i}.mlp.fc1.{p}"),
        Rename(block + "mlp.c_proj.{p}", "blocks.{i}.mlp.fc2.{p}"),
        Rename(prefix + "ln_post.{p}", "norm.{p}"),
        Rename(prefix + "ln_post.{p}", "fc_norm.{p}"),
        Rename(prefix + "proj", "head.weight", transpose, transpose),
        Fill("head.bias", like="head.weight"),
    )


def _forward(state: Mapping[str, Tensor], image: Tensor, arch: Mapping) -> Tensor:
    """Image embedding ``(batch, output_dim)``, or pooled features without ``proj``."""
    eps, act, heads = 1e-5, ACTIVATIONS[arch.get("act", "gelu")], arch["num_heads"]
    x = patchify(image, state["visual.conv1.weight"], None)
    cls = state["visual.class_embedding"].expand(len(x), 1, -1)
    x = torch.cat([cls, x], dim=1) + state["visual.positional_embedding"]
    x = layer_norm(x, state, "visual.ln_pre", eps) if "visual.ln_pre.weight" in state else x
    for i in range(num_blocks(state, f"visual.{BLOCK}ln_1.weight")):
        block = "visual." + BLOCK.format(i=i)
        y = layer_norm(x, state, f"{block}ln_1", eps)
        qkv = y @ state[f"{block}attn.in_proj_weight"].T + state[f"{block}attn.in_proj_bias"]
        y = linear(self_attention(qkv, heads), state, f"{block}attn.out_proj")
        x = x + state.get(f"{block}ls_1.gamma", 1.0) * y
        hidden = act(linear(layer_norm(x, state, f"{block}ln_2", eps), state, f"{block}mlp.c_fc"))
        x = x + state.get(f"{block}ls_2.gamma", 1.0) * linear(hidden, state, f"{block}mlp.c_proj")
    by_average = arch.get("global_pool") == "avg"
    if by_average and arch.get("fc_norm", True):
        x = layer_norm(x[:, 1:].mean(dim=1), state, "visual.ln_post", eps)
    else:
        x = layer_norm(x, state, "visual.ln_post", eps)
        x = x[:, 1:].mean(dim=1) if by_average else x[:, 0]
    return x @ state["visual.proj"] if "visual.proj" in state else x


def _is_tower(state: Mapping[str, Tensor]) -> bool:
    """Whether these are CLIP's names; Perception Encoder has them and a pool."""
    return "visual.class_embedding" in state and "visual.attn_pool.probe" not in state


def _has_options(state: Mapping[str, Tensor]) -> bool:
    """Whether the tower has options that OpenAI's lacks and its names show."""
    return "visual.ln_pre.weight" not in state or f"visual.{BLOCK.format(i=0)}ls_1.gamma" in state


OPENAI_CLIP = Format(
    name="openai_clip",
    namespace="visual.",
    rules=tower("visual."),
    evidence=lambda state: _is_tower(state) and not _has_options(state),
    forward=_forward,
    norm_follows_model=True,
)

OPENAI_CLIP_DDP = OPENAI_CLIP.prefixed("module.", "openai_clip_ddp")

OPENCLIP_TOWER = replace(
    OPENAI_CLIP,
    name="openclip_tower",
    rules=(
        *tower("visual."),
        Rename(f"visual.{BLOCK}ls_{{n}}.gamma", "blocks.{i}.ls{n}.gamma"),
        # OpenCLIP's convolution never has a bias; timm's has one where no norm follows it.
        Fill("patch_embed.proj.bias", like="patch_embed.proj.weight", unless="norm_pre.weight"),
    ),
    evidence=lambda state: _is_tower(state) and _has_options(state),
)
