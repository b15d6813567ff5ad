"""timm's own layout, bare or wrapped, and its early form with a linear patch embedding."""

from __future__ import annotations

from hypothesis import strategies as st

from ..cases.case import Case
from . import vit

# Registered models whose upstream checkpoints are of other families.
OTHER_LAYOUTS = (
    "*_clip_*.laion*b",
    "*_clip_*.laion400m*",
    "*_clip_*.openai",
    "*_clip_*.datacompxl",
    "*_clip_*.dfn*",
    "*_clip_*.metaclip*",
    "*_clip_*.apple*",
    "*tinyclip*",
    "*dinov2*",
    "*tipsv2*",
    "*siglip_[!g]*",
    "*radio*",
    "*ijepa*",
    "*rpn*",
)


@st.composite
def _native(draw: st.DrawFn) -> dict:
    pool = draw(st.sampled_from(["token", "avg", "map"]), label="global_pool")
    # timm 1.0.16 changed whether an attention pool reads prefix tokens. A checkpoint does not say it, and no upstream has both.
    prefix = pool != "map"
    # SigLIP's towers pooled by average keep the norm before the pool (vit_*_siglip_gap_*).
    norms = {"fc_norm": st.sampled_from([True, False])} if pool == "avg" else {}
    base = vit.architectures(
        class_token=st.just(True) if pool == "token" else st.booleans() if prefix else st.just(False),
        reg_tokens=st.integers(0, 3) if prefix else st.just(0),
        global_pool=st.just(pool),
        no_embed_class=st.booleans(),
        pre_norm=st.booleans(),
        qkv_bias=st.sampled_from([True, False]),
        qk_norm=st.sampled_from([False, False, True]),
        layer_scale=st.booleans(),
        # Attention pools are SigLIP's, whose towers use either activation.
        act=vit.ACTIVATIONS if prefix else st.sampled_from(["gelu_tanh", "gelu"]),
        pos_embed=st.sampled_from(["learn"] * 6 + ["none"]),
        dynamic_img_size=st.sampled_from([False, False, True]),
        in_chans=st.sampled_from([3, 3, 3, 3, 1, 4]),
        **norms,
    )
    return draw(base)


def _tags(case: Case) -> frozenset[str]:
    arch = case.arch
    tags = {f"pool-{arch['global_pool']}", f"channels-{arch.get('in_chans', 3)}"}
    flags = {"no-positions": arch.get("pos_embed") == "none", "dynamic-size": arch.get("dynamic_img_size", False)}
    return frozenset(tags | {name for name, holds in flags.items() if holds})


TIMM_NATIVE = vit.family(
    name="timm_native",
    source="huggingface/pytorch-image-models timm/models/vision_transformer.py",
    known_since="0.9.0",
    architectures=_native(),
    models=("vit_*_patch*", "eva_large_*"),
    not_models=(
        *OTHER_LAYOUTS,
        # these have other layouts: their own attention or blocks, or no final norm
        "vit_dlittle_*",
        "vit_dpwee_*",
        "vit_dwee_*",
        "vit_pwee_*",
        "vit_intern300m_*",
    ),
    needs=lambda case: ("0.9.8", "attention pooling") if case.arch["global_pool"] == "map" else None,
    tags=_tags,
    own_regimes=frozenset(
        {"pool-token", "pool-avg", "pool-map", "channels-1", "channels-3", "channels-4", "no-positions", "dynamic-size"}
    ),
    weight=0.45,
)


def _legacy_undecidable(case: Case) -> str | None:
    """Why no loader could know the patch size: the columns of a linear kernel do not give its height and width."""
    (h, w), (dh, dw) = case.source.patch_size, case.destination.patch_size
    if h * w == dh * dw:
        return (
            None if (h, w) == (dh, dw) else "a linear kernel with as many pixels as the model's patch, in another shape"
        )
    return None if h == w else "a linear kernel of a non-square patch: its height and width cannot be told"


LEGACY_LINEAR = vit.family(
    name="legacy_linear",
    source="huggingface/pytorch-image-models timm/models/vision_transformer.py (its first weights)",
    known_since="0.9.0",
    architectures=vit.architectures(layer_scale=st.just(False), num_classes=st.sampled_from([0, 0, 2, 5])),
    # No tag has this layout today. These are the models whose first weights had it.
    models=("vit_base_patch16_224.augreg*", "vit_small_patch16_224.augreg*"),
    forward_arch=lambda case: {"patch_size": case.source.patch_size, "pre_logits": False},
    tags=lambda case: frozenset({"linear-kernel"} | ({"pre-logits"} if not case.arch["num_classes"] else set())),
    own_regimes=frozenset({"linear-kernel", "pre-logits"}),
    undecidable=_legacy_undecidable,
    square_patch="resampled",
    unreachable=frozenset({"prefix-0", "prefix-1+R"}),
    weight=0.22,
)

FAMILIES = (TIMM_NATIVE, LEGACY_LINEAR)
