"""DINOv3, EUPE and LingBot-Vision: storage tokens, no learnt positions, an MLP or SwiGLU."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from ..cases.case import Case
from . import eva_model, vit
from .base import Arch, Shapes

if TYPE_CHECKING:
    from .base import State

# All models of the DINOv3 kind have rotary positions only, and pool the class token or the patches.
ROTARY = {"pos_embed": "none", "rope": "dinov3", "rope_half": True, "rope_temperature": 100, "dynamic_img_size": True}
POOLING = st.sampled_from(["token", "avg"])


@st.composite
def _architectures(draw: st.DrawFn, /, **options: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Options in which the model has a learnt bias, or none and a checkpoint with no bias ("none") or zeros ("zero")."""
    fixed = ROTARY | {"fc_norm": False, "layer_scale": True}
    options |= {name: st.just(value) for name, value in fixed.items()}
    bias = draw(st.sampled_from(["learnt", "zero", "none"]), label="bias")
    return draw(
        vit.architectures(
            reg_tokens=st.integers(1, 4),
            num_classes=st.just(0),
            global_pool=POOLING,
            qkv_bias=st.just(bias == "learnt"),
            bias=st.just(bias),
            beside=st.sampled_from(["nothing", "local_cls_norm", "projectors"]),
            **options,
        )
    )


def _by_model(name: str) -> dict[str, Any]:
    """EUPE's checkpoints hold its distillation heads, those of DINOv3-7B a norm for the class token of local crops."""
    if "eupe" in name:
        return {"beside": "projectors"}
    return {"beside": "local_cls_norm"} if "_7b_" in name else {}


def with_zero_biases(case: Case, state: State) -> State:
    """Add a bias of zeros if the checkpoint has one. The model has no such tensor."""
    if case.arch["bias"] != "zero":
        return state
    new = state["cls_token"].new_zeros(case.arch["embed_dim"])
    names = (f"blocks.{i}.attn.{part}_bias" for i in range(case.arch["depth"]) for part in "qv")
    return state | dict.fromkeys(names, new)


def _beside(arch: Arch) -> Shapes:
    dim = arch["embed_dim"]
    kinds: dict[str, Shapes] = {
        "nothing": {},
        "local_cls_norm": {"local_cls_norm.weight": (dim,), "local_cls_norm.bias": (dim,)},
        "projectors": {"projectors.sam.0.weight": (8, dim), "projectors.sam.0.bias": (8,)},
    }
    return kinds[arch["beside"]]


def _tags(case: Case) -> frozenset[str]:
    return frozenset({f"bias-{case.arch['bias']}", f"beside-{case.arch['beside']}"})


_family = partial(
    eva_model.family,
    known_since="1.0.20",
    by_model=_by_model,
    model_kwargs=partial(eva_model.model_kwargs, eps=1e-5),
    stored=with_zero_biases,
    foreign=_beside,
    tags=_tags,
    own_regimes=frozenset(
        {
            "bias-learnt",
            "bias-zero",
            "bias-none",
            "beside-nothing",
            "beside-local_cls_norm",
            "beside-projectors",
        }
    ),
    unreachable=frozenset({"prefix-0", "prefix-1"}),
)
_GATED = ("vit_small_plus_*_dinov3*", "vit_huge_plus_*_dinov3*", "vit_7b_*_dinov3*", "vit_giant_*_lingbot.*")

DINOV3 = _family(
    name="dinov3",
    source="facebookresearch/dinov3 dinov3/models/vision_transformer.py; facebookresearch/EUPE; robbyant/lingbot-vision",
    architectures=_architectures(),
    models=("vit_*_dinov3.*", "vit_*_dinov3_qkvb.*", "vit_*_lingbot.*"),
    not_models=_GATED,
    weight=0.22,
)

DINOV3_SWIGLU = _family(
    name="dinov3_swiglu",
    source="facebookresearch/dinov3 dinov3/layers/ffn_layers.py: SwiGLUFFN",
    architectures=_architectures(swiglu=st.just("split")),
    models=_GATED,
    weight=0.22,
)

FAMILIES = (DINOV3, DINOV3_SWIGLU)
