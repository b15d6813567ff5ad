"""EVA-01 in its own names, which timm's Eva uses: bare, in EVA-CLIP (``visual.``), and in OpenCLIP (``visual.trunk.``).

Sources: ``baaivision/EVA`` ``EVA-01/eva/modeling_finetune.py``, ``EVA-CLIP/rei/eva_clip/eva_vit_model.py``;
``huggingface/pytorch-image-models`` ``timm/models/eva.py``; ``naver-ai/rope-vit`` ``self-attn/rope_self_attn.py``. Keys have no
bias; the biases of q and v are tensors of their own beside a fused weight. timm's other models of this class add register
tokens, separate projections, and rotary positions, of which ``rope.freqs`` are learnt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..forward import attend, layer_norm, linear, num_blocks, patchify
from ..rope import interleaved_angles, rotate_pairs
from .rules import SAME, Fill, Format, Rename, strip

_EPS = 1e-6
_KERNEL = "patch_embed.proj.weight"

State = Mapping[str, Tensor]


def encode_image(state: State, image: Tensor, arch: Mapping, mlp: Callable[..., Tensor]) -> Tensor:
    """Logits, or pooled features without a head. ``mlp(x, state, name)`` computes the block's second branch."""
    kernel = state[_KERNEL]
    grid = image.shape[-2] // kernel.shape[-2], image.shape[-1] // kernel.shape[-1]
    x = patchify(image, kernel, state["patch_embed.proj.bias"])
    prefix = [state[k].expand(len(x), -1, -1) for k in ("cls_token", "reg_token") if k in state]
    outside, position = arch.get("no_embed_class"), state.get("pos_embed", 0.0)
    x = torch.cat([*prefix, x + position if outside else x], dim=1)
    x = x if outside else x + position
    skip = x.shape[1] - grid[0] * grid[1]
    for i in range(num_blocks(state, "blocks.{i}.norm1.weight")):
        block, angles = f"blocks.{i}.", _angles(state, arch, grid, i)
        attention = partial(_attention, state=state, name=f"{block}attn.", arch=arch, angles=angles, skip=skip)
        for n, branch in ((1, attention), (2, partial(mlp, state=state, name=f"{block}mlp."))):
            norm = partial(layer_norm, state=state, name=f"{block}norm{n}", eps=_EPS)
            y = norm(branch(x)) if arch.get("post_norm") else branch(norm(x))
            x = x + state.get(f"{block}gamma_{n}", 1.0) * y
    if "norm.weight" in state:
        x = layer_norm(x, state, "norm", _EPS)
    x = x[:, 0] if arch.get("global_pool", "token") == "token" else x[:, skip:].mean(dim=1)
    if "fc_norm.weight" in state:
        x = layer_norm(x, state, "fc_norm", _EPS)
    return linear(x, state, "head") if "head.weight" in state else x


def _angles(state: State, arch: Mapping, grid: tuple[int, int], block: int) -> Tensor | None:
    """Rotary angles ``([num_heads,] tokens, head_dim)`` of a block."""
    if not arch.get("rope"):
        return None
    if arch["rope"] == "mixed":
        by_axis = state["rope.freqs"][:, block, :, None, :]
        rows, cols = torch.meshgrid(*(torch.arange(n, device=by_axis.device) for n in grid), indexing="ij")
        first, second = (cols, rows) if arch.get("rope_xy") else (rows, cols)
        angles = by_axis[0] * first.flatten()[:, None] + by_axis[1] * second.flatten()[:, None]
        return angles.repeat_interleave(2, dim=-1)
    return interleaved_angles(
        grid,
        arch["embed_dim"] // arch["num_heads"],
        reference_grid=(arch["ref_grid"],) * 2 if arch.get("ref_grid") else None,
        column_first=arch.get("rope_xy", False),
        temperature=arch.get("rope_temperature", 10000.0),
    )


def _attention(x: Tensor, state: State, name: str, arch: Mapping, angles: Tensor | None, skip: int) -> Tensor:
    """Attention with its projection. The first ``skip`` tokens have no position in the grid and are not rotated."""
    heads = arch["num_heads"]
    q_bias, v_bias = (state.get(f"{name}{n}_proj.bias", state.get(f"{name}{n}_bias")) for n in "qv")
    if f"{name}qkv.weight" in state:
        q, k, v = linear(x, state, f"{name}qkv").chunk(3, dim=-1)
    else:
        q, v = (F.linear(x, state[f"{name}{n}_proj.weight"]) for n in "qv")
        k = linear(x, state, f"{name}k_proj")
    q, v = (t if bias is None else t + bias for t, bias in ((q, q_bias), (v, v_bias)))
    if angles is not None:
        q, k = (_rotated(t, angles, heads, skip) for t in (q, k))
    x = attend(q, k, v, heads)
    norm = next((n for n in ("inner_attn_ln", "norm") if f"{name}{n}.weight" in state), None)
    x = layer_norm(x, state, name + norm, _EPS) if norm else x
    return linear(x, state, f"{name}proj")


def _rotated(x: Tensor, angles: Tensor, heads: int, skip: int) -> Tensor:
    by_head = x.unflatten(-1, (heads, -1)).transpose(1, 2)
    turned = torch.cat([by_head[:, :, :skip], rotate_pairs(by_head[:, :, skip:], angles)], dim=2)
    return turned.transpose(1, 2).flatten(2)


def _mlp(x: Tensor, state: State, name: str) -> Tensor:
    """The MLPs of Eva in timm's names: plain, gated with two weights, or gated with one weight, the gate first."""
    if f"{name}fc1_g.weight" in state:
        y = F.silu(linear(x, state, f"{name}fc1_g")) * linear(x, state, f"{name}fc1_x")
    else:
        y = linear(x, state, f"{name}fc1")
        packed = y.shape[-1] == 2 * state[f"{name}fc2.weight"].shape[1]
        y = F.silu(y.chunk(2, dim=-1)[0]) * y.chunk(2, dim=-1)[1] if packed else F.gelu(y)
    y = layer_norm(y, state, f"{name}norm", _EPS) if f"{name}norm.weight" in state else y
    return linear(y, state, f"{name}fc2")


def _forward(state: State, image: Tensor, arch: Mapping) -> Tensor:
    return encode_image(state, image, arch, _mlp)


def _trunk_forward(state: State, image: Tensor, arch: Mapping) -> Tensor:
    x = _forward(strip(state, "visual.trunk."), image, arch)
    return linear(x, state, "visual.head.proj") if "visual.head.proj.weight" in state else x


# Keys that show another format among checkpoints with these names.
_OTHERS = ("mask_token", "storage_tokens", "blocks.0.mlp.w3.weight")
# Keys that no other model of these names has.
EVAS_OWN = ("blocks.0.attn.q_bias", "blocks.0.attn.q_proj.weight", "rope.freqs")

# Keys that, together, also occur in BEiT or DeiT-III.
_SCALED = {"pos_embed", "blocks.0.gamma_1", "blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight"}


def is_eva(state: State) -> bool:
    """Whether a state dict is an Eva in timm's names.

    With positions, layer scale, a fused qkv and a plain MLP, the names are the same as BEiT's or DeiT-III's. Only the model's own
    names show then that it is an Eva.
    """
    if _KERNEL not in state or any(k in state for k in _OTHERS) or any("relative_position" in k for k in state):
        return False
    if state.keys() >= _SCALED:
        return "rope.freqs" in state and "blocks.0.attn.q_bias" not in state
    return any(k in state for k in EVAS_OWN) or ("blocks.0.gamma_1" in state and "pos_embed" not in state)


EVA = Format("eva", "", (SAME,), is_eva, _forward)

EVA_CLIP = EVA.prefixed("visual.", "eva_clip")

_IN_TRUNK = Rename("visual.trunk.{rest}", "{rest}")
_PROJECTION = (Rename("visual.head.proj.{p}", "head.{p}"), Fill("head.bias", like="head.weight"))


def _is_trunk(state: State, projection: bool) -> bool:
    return is_eva(strip(state, "visual.trunk.")) and ("visual.head.proj.weight" in state) == projection


# mlfoundations/open_clip src/open_clip/timm_model.py: without a projection of its own the head is the trunk's classifier.
EVA_OPENCLIP_TRUNK = Format(
    name="eva_openclip_trunk",
    namespace="visual.",
    rules=(_IN_TRUNK,),
    evidence=lambda state: _is_trunk(state, projection=False),
    forward=_trunk_forward,
)

EVA_OPENCLIP_PROJECTION = replace(
    EVA_OPENCLIP_TRUNK,
    name="eva_openclip_projection",
    rules=(*_PROJECTION, _IN_TRUNK),
    evidence=lambda state: _is_trunk(state, projection=True),
)
