"""Hugging Face transformers' ViT, DeiT, ViTMAE and I-JEPA."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from hypothesis import strategies as st

from ..cases.case import Case
from . import asks, deit, hugging_face, vit
from .base import NO_RELEASE, Arch, Shapes, State

_SOURCE = "huggingface/transformers src/transformers/models/"
_KWARGS = partial(vit.model_kwargs, eps=1e-12)


def _written(case: Case, state: State, root: str) -> State:
    return hugging_face.spelled(case, state, root, "layers.", hugging_face.ENCODER)


def _pooler(arch: Arch) -> Shapes:
    """A bare model's layer that follows the class token."""
    dim = arch["embed_dim"]
    return {"pooler.dense.weight": (dim, dim), "pooler.dense.bias": (dim,)} if arch["bare"] else {}


def _beside(arch: Arch, root: str) -> Shapes:
    """The pooler of a bare model. Without a classifier, the mask token and the head of a model of masked images."""
    if arch["bare"] or arch["num_classes"]:
        return _pooler(arch)
    dim = arch["embed_dim"]
    return {f"{root}embeddings.mask_token": (1, 1, dim), "decoder.0.weight": (12, dim, 1, 1), "decoder.0.bias": (12,)}


def _decoder(arch: Arch) -> Shapes:
    """Tensors of the decoder. Every such checkpoint also has its mask token and its positions."""
    modules = arch["names"] == "modules"
    # save_pretrained of 5.x renames the decoder's layers, too.
    layer = "decoder.decoder_layers.0." if modules else "decoder.decoder_encoder.layer.0."
    query = "attention.q_proj" if modules else "attention.attention.query"
    return {
        "decoder.decoder_embed.weight": (8, arch["embed_dim"]),
        "decoder.decoder_embed.bias": (8,),
        f"{layer}layernorm_before.weight": (8,),
        f"{layer}{query}.weight": (8, 8),
        "decoder.decoder_norm.weight": (8,),
        "decoder.decoder_pred.weight": (12, 8),
    }


TRANSFORMERS_VIT = vit.family(
    name="transformers_vit",
    source=f"{_SOURCE}vit/modeling_vit.py",
    known_since=NO_RELEASE,
    architectures=hugging_face.architectures(vit.architectures(qkv_bias=st.sampled_from([True, True, False]))),
    model_kwargs=_KWARGS,
    models=("vit_*_patch*_*.augreg_*", "vit_*.dino"),
    written=partial(_written, root="vit."),
    foreign=partial(_beside, root="vit."),
    wrappers=("bare", "model"),
    tags=hugging_face.tags,
    own_regimes=hugging_face.REGIMES,
    unreachable=frozenset({"prefix-0", "prefix-1+R"}),
    weight=0.1,
)

# A distillation token without a classifier is a register token to timm.
TRANSFORMERS_DEIT = replace(
    TRANSFORMERS_VIT,
    name="transformers_deit",
    source=f"{_SOURCE}deit/modeling_deit.py: DeiTForImageClassification",
    architectures=hugging_face.architectures(
        vit.architectures(reg_tokens=st.just(1), num_classes=st.integers(1, 5)), bare=False
    ),
    asks=asks.pre_norm,
    module="deit",
    models=("deit_*_patch16_*",),
    not_models=("*_distilled_*",),
    written=partial(_written, root="deit."),
    foreign=lambda arch: {},
    own_regimes=hugging_face.REGIMES - {"bare-encoder"},
    unreachable=frozenset({"prefix-0", "prefix-1"}),
)

TRANSFORMERS_DEIT_DISTILLED = replace(
    deit.DEIT_DISTILLED,
    name="transformers_deit_distilled",
    source=f"{_SOURCE}deit/modeling_deit.py: DeiTForImageClassificationWithTeacher, DeiTModel",
    known_since=NO_RELEASE,
    architectures=hugging_face.architectures(vit.architectures(dist_token=st.just(True))),
    model_kwargs=_KWARGS,
    written=partial(_written, root="deit."),
    foreign=partial(_beside, root="deit."),
    wrappers=("bare", "model"),
    tags=hugging_face.tags,
    own_regimes=hugging_face.REGIMES,
    weight=0.1,
)

# A whole pretraining model. The encoder alone is a ViT.
TRANSFORMERS_VIT_MAE = replace(
    TRANSFORMERS_VIT,
    name="transformers_vit_mae",
    source=f"{_SOURCE}vit_mae/modeling_vit_mae.py: ViTMAEForPreTraining",
    architectures=hugging_face.architectures(vit.architectures(num_classes=st.just(0)), bare=False),
    models=("vit_*.mae",),
    foreign=_decoder,
    own_regimes=hugging_face.REGIMES - {"bare-encoder"},
)

TRANSFORMERS_IJEPA = replace(
    TRANSFORMERS_VIT,
    name="transformers_ijepa",
    source=f"{_SOURCE}ijepa/modeling_ijepa.py",
    architectures=hugging_face.architectures(
        vit.architectures(class_token=st.just(False), global_pool=st.just("avg"), fc_norm=st.just(False))
    ),
    models=("vit_*_ijepa*",),
    written=partial(_written, root="ijepa."),
    foreign=_pooler,
    unreachable=frozenset({"prefix-1", "prefix-1+R"}),
)

FAMILIES = (
    TRANSFORMERS_VIT,
    TRANSFORMERS_DEIT,
    TRANSFORMERS_DEIT_DISTILLED,
    TRANSFORMERS_VIT_MAE,
    TRANSFORMERS_IJEPA,
)
