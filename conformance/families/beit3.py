"""BEiT-3: the vision branch of a multiway encoder, pretrained or fine-tuned."""

from __future__ import annotations

from hypothesis import strategies as st

from . import vit
from .base import Arch, Shapes


@st.composite
def _options(draw: st.DrawFn) -> dict:
    """A pretraining checkpoint ends in the encoder's norm. A classifier ends in a norm of the mean token and a head."""
    pretraining = draw(st.booleans(), label="pretraining")
    pool = st.just("token" if pretraining else "avg")
    classes = st.just(0) if pretraining else st.integers(1, 5)
    return draw(vit.architectures(num_classes=classes, sub_norm=st.just(True), global_pool=pool))


def _language_branch(arch: Arch) -> Shapes:
    dim, layer = arch["embed_dim"], "beit3.encoder.layers.0."
    return {
        "beit3.text_embed.weight": (11, dim),
        "beit3.encoder.embed_positions.B.weight": (9, dim),
        f"{layer}self_attn.q_proj.B.weight": (dim, dim),
        f"{layer}self_attn.inner_attn_ln.B.weight": (dim,),
        f"{layer}self_attn_layer_norm.B.weight": (dim,),
        f"{layer}ffn.B.fc1.weight": (dim, dim),
        f"{layer}ffn.B.ffn_layernorm.weight": (dim,),
    }


BEIT3 = vit.family(
    name="beit3",
    source="microsoft/unilm beit3/modeling_finetune.py; microsoft/torchscale torchscale/model/BEiT3.py",
    known_since="1.0.16",
    architectures=_options(),
    model_kwargs=lambda arch: vit.model_kwargs(arch, eps=1e-5),
    models=("beit3_*",),
    foreign=_language_branch,
    wrappers=("model", "bare", "state_dict"),
    tags=lambda case: frozenset({"fine-tuned" if case.arch["num_classes"] else "pretraining"}),
    own_regimes=frozenset({"fine-tuned", "pretraining"}),
    unreachable=frozenset({"prefix-0", "prefix-1+R"}),
    weight=0.22,
)

FAMILIES = (BEIT3,)
