"""Hugging Face transformers' ViT, DeiT, ViTMAE and I-JEPA, which share their names.

Source: ``huggingface/transformers`` ``src/transformers/models/`` ``vit/modeling_vit.py``, ``deit/modeling_deit.py``,
``vit_mae/modeling_vit_mae.py``, ``ijepa/modeling_ijepa.py``; ``src/transformers/conversion_mapping.py``. Files have the names of
4.x: ``save_pretrained`` of 5.x turns the names of its modules back into them. ``state_dict()`` of 5.x gives the modules' own.
The names of a whole model begin with the encoder's (``vit.``), those of a bare encoder do not. q, k and v are separate layers.

DeiT always has a distillation token. ``DeiTForImageClassification`` classifies by the class token alone. To timm, a
distillation token without a classifier is a register token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..forward import ACTIVATIONS, attend, layer_norm, linear, num_blocks, patchify
from .rules import Drop, Format, Rename, Rule, concatenated

State = Mapping[str, Tensor]

EMBEDDINGS = "embeddings."
PROJECTION = "patch_embeddings.projection."
_EPS = 1e-12


@dataclass(frozen=True)
class Names:
    """The names of a block's layers. ``block`` has the block's number, the others come after it."""

    block: str
    qkv: tuple[str, str, str]
    out: str
    fc1: str
    fc2: str


# In a file, and in the state_dict() of 5.x.
SAVED = Names(
    "encoder.layer.{i}.",
    ("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
MODULES = Names(
    "layers.{i}.",
    ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attention.o_proj",
    "mlp.fc1",
    "mlp.fc2",
)


def embedding_rules(root: str) -> tuple[Rule, ...]:
    """Class token, positions and patch embedding; and the mask token, which an image encoder does not use."""
    at = root + EMBEDDINGS
    return (
        Rename(at + "cls_token", "cls_token"),
        Rename(at + "position_embeddings", "pos_embed"),
        Rename(at + PROJECTION + "{p}", "patch_embed.proj.{p}"),
        Drop(at + "mask_token"),
    )


def block_rules(root: str, names: Names) -> tuple[Rule, ...]:
    """The norms, the projection and the MLP of each block."""
    at = root + names.block
    return (
        Rename(at + "layernorm_before.{p}", "blocks.{i}.norm1.{p}"),
        Rename(at + names.out + ".{p}", "blocks.{i}.attn.proj.{p}"),
        Rename(at + "layernorm_after.{p}", "blocks.{i}.norm2.{p}"),
        Rename(at + names.fc1 + ".{p}", "blocks.{i}.mlp.fc1.{p}"),
        Rename(at + names.fc2 + ".{p}", "blocks.{i}.mlp.fc2.{p}"),
    )


def _encoder_rules(root: str) -> tuple[Rule, ...]:
    qkv = (
        concatenated(tuple(root + n.block + part + ".{p}" for part in n.qkv), "blocks.{i}.attn.qkv.{p}")
        for n in (SAVED, MODULES)
    )
    return (
        *embedding_rules(root),
        *qkv,
        *block_rules(root, SAVED),
        *block_rules(root, MODULES),
        Rename(root + "layernorm.{p}", "norm.{p}"),
        Drop(root + "pooler.dense.{p}"),
    )


# -- the forward pass --------------------------------------------------------------------------------------------------


def root_of(state: State, *roots: str) -> str | None:
    """The first of ``roots`` with which the name of the patch kernel begins; None if there is none."""
    return next((root for root in roots if f"{root}{EMBEDDINGS}{PROJECTION}weight" in state), None)


def names_of(state: State, root: str) -> Names:
    """The names that the blocks of a state dict have."""
    return SAVED if f"{root}{SAVED.block.format(i=0)}layernorm_before.weight" in state else MODULES


def embed(state: State, image: Tensor, root: str) -> Tensor:
    """Tokens ``(batch, n, embed_dim)`` with positions: class token, distillation token, patches."""
    at = root + EMBEDDINGS
    x = patchify(image, state[f"{at}{PROJECTION}weight"], state[f"{at}{PROJECTION}bias"])
    names = [at + name for name in ("cls_token", "distillation_token") if at + name in state]
    x = torch.cat([*(state[name].expand(len(x), -1, -1) for name in names), x], dim=1)
    return x + state.get(f"{at}position_embeddings", 0.0)


def encode(
    state: State, x: Tensor, root: str, arch: Mapping, bias: Callable[[str], Tensor | float] = lambda block: 0.0
) -> Tensor:
    """The tokens after the last block. ``bias`` gives what a block adds to its attention; scales (``lambda``) are optional."""
    names, eps, act = names_of(state, root), arch.get("eps", _EPS), ACTIVATIONS[arch.get("act", "gelu")]
    for i in range(num_blocks(state, root + names.block + "layernorm_before.weight")):
        at = root + names.block.format(i=i)
        y = layer_norm(x, state, f"{at}layernorm_before", eps)
        q, k, v = (linear(y, state, at + part) for part in names.qkv)
        y = linear(attend(q, k, v, arch["num_heads"], bias(at)), state, at + names.out)
        x = x + state.get(f"{at}lambda_1", 1.0) * y
        hidden = act(linear(layer_norm(x, state, f"{at}layernorm_after", eps), state, at + names.fc1))
        x = x + state.get(f"{at}lambda_2", 1.0) * linear(hidden, state, at + names.fc2)
    return x


def classify(x: Tensor, state: State, name: str = "classifier") -> Tensor:
    """The logits of pooled features ``(batch, embed_dim)``, or the features where the checkpoint has no such classifier."""
    return linear(x, state, name) if f"{name}.weight" in state else x


def _tokens(state: State, image: Tensor, arch: Mapping, own: str) -> Tensor:
    """All tokens after the final norm."""
    root = own if root_of(state, own) is not None else ""
    x = encode(state, embed(state, image, root), root, arch)
    return layer_norm(x, state, f"{root}layernorm", arch.get("eps", _EPS))


def _by_class_token(own: str) -> Callable[[State, Tensor, Mapping], Tensor]:
    """A forward pass to logits ``(batch, num_classes)``, or to the class token where there is no classifier."""
    return lambda state, image, arch: classify(_tokens(state, image, arch, own)[:, 0], state)


def _distilled_forward(state: State, image: Tensor, arch: Mapping) -> Tensor:
    """The mean of the logits of class and distillation token, or of these tokens where there are no classifiers."""
    x = _tokens(state, image, arch, "deit.")
    return (classify(x[:, 0], state, "cls_classifier") + classify(x[:, 1], state, "distillation_classifier")) / 2


def _ijepa_forward(state: State, image: Tensor, arch: Mapping) -> Tensor:
    """Logits of the mean token, or the mean token where there is no classifier."""
    return classify(_tokens(state, image, arch, "ijepa.").mean(dim=1), state)


# -- detection ---------------------------------------------------------------------------------------------------------


def has_blocks(state: State, root: str) -> bool:
    """Whether a state dict has a first block of one of the two sets of names."""
    return f"{root}{names_of(state, root).block.format(i=0)}layernorm_before.weight" in state


def is_beit(state: State, root: str) -> bool:
    """Whether blocks of these names are BEiT's, whose keys have no bias, while queries have one."""
    names = names_of(state, root)
    query, key, _ = (f"{root}{names.block.format(i=0)}{part}.bias" for part in names.qkv)
    return query in state and key not in state


def _is(kind: str, own: str) -> Callable[[State], bool]:
    """Evidence of a format whose whole models begin with ``own``."""
    return lambda state: _kind(state, own) == kind


def _kind(state: State, own: str) -> str | None:
    root = root_of(state, own, "")
    if root is None or not has_blocks(state, root) or is_beit(state, root):
        return None
    if f"{root}{EMBEDDINGS}distillation_token" in state:
        return "transformers_deit" if "classifier.weight" in state else "transformers_deit_distilled"
    if f"{root}{EMBEDDINGS}cls_token" not in state:
        return "transformers_ijepa"
    return "transformers_vit_mae" if "decoder.decoder_pos_embed" in state else "transformers_vit"


# -- the formats -------------------------------------------------------------------------------------------------------

_HEAD = Rename("classifier.{p}", "head.{p}")
_MASKED_MODELLING = Drop("decoder.0.{p}")  # the head of ViTForMaskedImageModeling and DeiTForMaskedImageModeling
_ROOTS = ("deit.", "")

TRANSFORMERS_VIT = Format(
    name="transformers_vit",
    namespace="",
    rules=(*_encoder_rules("vit."), *_encoder_rules(""), _HEAD, _MASKED_MODELLING),
    evidence=_is("transformers_vit", "vit."),
    forward=_by_class_token("vit."),
    prefix_rows=True,
)

TRANSFORMERS_DEIT = Format(
    name="transformers_deit",
    namespace="",
    rules=(
        *(Rename(f"{root}{EMBEDDINGS}distillation_token", "reg_token") for root in _ROOTS),
        *_encoder_rules("deit."),
        *_encoder_rules(""),
        _HEAD,
    ),
    evidence=_is("transformers_deit", "deit."),
    forward=_by_class_token("deit."),
    prefix_rows=True,
)

TRANSFORMERS_DEIT_DISTILLED = Format(
    name="transformers_deit_distilled",
    namespace="",
    rules=(
        *(Rename(f"{root}{EMBEDDINGS}distillation_token", "dist_token") for root in _ROOTS),
        *_encoder_rules("deit."),
        *_encoder_rules(""),
        Rename("cls_classifier.{p}", "head.{p}"),
        Rename("distillation_classifier.{p}", "head_dist.{p}"),
        _MASKED_MODELLING,
    ),
    evidence=_is("transformers_deit_distilled", "deit."),
    forward=_distilled_forward,
    prefix_rows=True,
)

# A whole pretraining model. The encoder alone has the names of a ViT.
TRANSFORMERS_VIT_MAE = Format(
    name="transformers_vit_mae",
    namespace="",
    rules=(
        Drop("decoder.mask_token", lambda out: out[f"vit.{EMBEDDINGS}cls_token"].new_ones(1, 1, 8)),
        Drop(
            "decoder.decoder_pos_embed",
            lambda out: out[f"vit.{EMBEDDINGS}cls_token"].new_ones(
                1, out[f"vit.{EMBEDDINGS}position_embeddings"].shape[1], 8
            ),
        ),
        Drop("decoder.{rest}"),
        *_encoder_rules("vit."),
    ),
    evidence=_is("transformers_vit_mae", "vit."),
    forward=_by_class_token("vit."),
    prefix_rows=True,
)

TRANSFORMERS_IJEPA = Format(
    name="transformers_ijepa",
    namespace="",
    rules=(*_encoder_rules("ijepa."), *_encoder_rules(""), _HEAD),
    evidence=_is("transformers_ijepa", "ijepa."),
    forward=_ijepa_forward,
)
