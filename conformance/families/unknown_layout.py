"""Vision Transformers in layouts that no release of timm reads, such as Hugging Face's and OpenMMLab's, and a text tower.

A loader refuses such a file, or it reads the layout and uses every tensor. A load that is not strict may accept the file without
using one of them. The reference reads Hugging Face's names and OpenMMLab's, which families of their own judge by all invariants;
it refuses those of ViT-pytorch.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from ..cases.case import Case
from . import vit

if TYPE_CHECKING:
    from .base import State

# Each layout as renamings of timm's names, of which the first that matches is made. A "/" separates query, key and value.
_HUGGING_FACE = (
    (r"blocks\.(\d+)\.norm1\.", r"vit.encoder.layer.\1.layernorm_before."),
    (r"blocks\.(\d+)\.norm2\.", r"vit.encoder.layer.\1.layernorm_after."),
    (
        r"blocks\.(\d+)\.attn\.qkv\.",
        r"vit.encoder.layer.\1.attention.attention.query./vit.encoder.layer.\1.attention.attention.key."
        r"/vit.encoder.layer.\1.attention.attention.value.",
    ),
    (r"blocks\.(\d+)\.attn\.proj\.", r"vit.encoder.layer.\1.attention.output.dense."),
    (r"blocks\.(\d+)\.mlp\.fc1\.", r"vit.encoder.layer.\1.intermediate.dense."),
    (r"blocks\.(\d+)\.mlp\.fc2\.", r"vit.encoder.layer.\1.output.dense."),
    (r"norm\.", "vit.layernorm."),
    (r"head\.", "classifier."),
    (r"cls_token", "vit.embeddings.cls_token"),
    (r"pos_embed", "vit.embeddings.position_embeddings"),
    (r"patch_embed\.proj\.", "vit.embeddings.patch_embeddings.projection."),
)
_OPEN_MMLAB = (
    (r"blocks\.(\d+)\.norm([12])\.", r"backbone.layers.\1.ln\2."),
    (r"blocks\.(\d+)\.attn\.", r"backbone.layers.\1.attn."),
    (r"blocks\.(\d+)\.mlp\.fc1\.", r"backbone.layers.\1.ffn.layers.0.0."),
    (r"blocks\.(\d+)\.mlp\.fc2\.", r"backbone.layers.\1.ffn.layers.1."),
    (r"norm\.", "backbone.ln1."),
    (r"head\.", "head.layers.head."),
    (r"(cls_token|pos_embed)", r"backbone.\1"),
    (r"patch_embed\.proj\.", "backbone.patch_embed.projection."),
)
_VIT_PYTORCH = (
    (r"blocks\.(\d+)\.norm1\.", r"transformer.encoder.layer.\1.attention_norm."),
    (r"blocks\.(\d+)\.norm2\.", r"transformer.encoder.layer.\1.ffn_norm."),
    (
        r"blocks\.(\d+)\.attn\.qkv\.",
        r"transformer.encoder.layer.\1.attn.query./transformer.encoder.layer.\1.attn.key./transformer.encoder.layer.\1.attn.value.",
    ),
    (r"blocks\.(\d+)\.attn\.proj\.", r"transformer.encoder.layer.\1.attn.out."),
    (r"blocks\.(\d+)\.mlp\.", r"transformer.encoder.layer.\1.ffn."),
    (r"norm\.", "transformer.encoder.encoder_norm."),
    (r"head\.", "head."),
    (r"cls_token", "transformer.embeddings.cls_token"),
    (r"pos_embed", "transformer.embeddings.position_embeddings"),
    (r"patch_embed\.proj\.", "transformer.embeddings.patch_embeddings."),
)
_LAYOUTS = {"hugging-face": _HUGGING_FACE, "open-mmlab": _OPEN_MMLAB, "vit-pytorch": _VIT_PYTORCH}


def _stored(case: Case, state: State) -> State:
    """The tensors in the layout of the case; of CLIP's text tower there is none of the image tower's."""
    import torch

    if case.arch["layout"] == "text-tower":
        return {name: torch.ones(shape, dtype=state["cls_token"].dtype) for name, shape in vit.text_tower().items()}
    out: State = {}
    for name, tensor in state.items():
        pattern, new = next((old, new) for old, new in _LAYOUTS[case.arch["layout"]] if re.match(old, name))
        names = re.sub(pattern, new, name, count=1)
        rest = re.sub(pattern, "", name, count=1) if "/" in names else ""
        parts = [part.removesuffix(rest) + rest for part in names.split("/")]
        out |= dict(zip(parts, tensor.chunk(len(parts))))
    return out


UNKNOWN_LAYOUT = vit.family(
    name="unknown_layout",
    source=(
        "huggingface/transformers src/transformers/models/vit/modeling_vit.py; "
        "open-mmlab/mmpretrain mmpretrain/models/backbones/vision_transformer.py; "
        "jeonsworld/ViT-pytorch models/modeling.py; openai/CLIP clip/model.py (its text tower)"
    ),
    shares_format="timm_native",
    known_since="0.9.0",
    unread=True,
    architectures=vit.architectures(layout=st.sampled_from([*_LAYOUTS, "text-tower"])),
    models=("vit_*_patch16_224.augreg*", "vit_base_patch16_224.mae"),
    stored=_stored,
    asks=lambda arch: (),
    tags=lambda case: frozenset({f"layout-{case.arch['layout']}"}),
    own_regimes=frozenset({f"layout-{name}" for name in (*_LAYOUTS, "text-tower")}),
    unreachable=frozenset({"prefix-0", "prefix-1+R", "asked"}),
    weight=0.22,
)

FAMILIES = (UNKNOWN_LAYOUT,)
