"""The reference's forwards keep laws that no second implementation is needed for: one network written in two ways.

Each law is of what a gate seldom draws, or of numbers (a ceiling, an order of halves) that random tensors hardly tell apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import log
from typing import Any

import pytest
import torch
from torch import Tensor

from timm_conformance import reference
from timm_conformance.cases.case import Case
from timm_conformance.cases.profiles import PROFILES
from timm_conformance.drawing.drawing import Drawing
from timm_conformance.drawing.strategies import STRATA
from timm_conformance.families import FAMILIES
from timm_conformance.reference import FORMATS
from timm_conformance.reference.relative import transpose_bias_table
from timm_conformance.reference.stems import TIMM, UPSTREAM, Constants
from timm_conformance.trials.expectation import Expectation


def _drawn(name: str) -> Iterator[Case]:
    """Native cases of a family, a hundred if so many are wanted."""
    drawing = Drawing(PROFILES["gate"], 0)
    return (case for search in range(9) for case in drawing.more(FAMILIES[name], STRATA[0], search))


class Network:
    """A drawn checkpoint of a family in float64, and what it computes of one image."""

    def __init__(self, name: str, having: Callable[[Mapping[str, Any]], bool] = lambda arch: True) -> None:
        family = FAMILIES[name]
        case = next(
            c for c in _drawn(name) if c.contents.kind == "normal" and having(c.arch) and family.no_output(c) is None
        )
        whole = Expectation(family, case)
        self.format = whole.format
        self.arch = {**case.arch, **family.forward_arch(case)}
        self.state = {k: v.double() if v.is_floating_point() else v for k, v in whole.upstream.items()}
        size = (2, case.arch.get("in_chans", 3), *family.img_size(case.arch, case.source))
        self.image = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def __call__(self, state: Mapping[str, Tensor] | None = None, **arch: Any) -> Tensor:
        return self.format.forward(self.state if state is None else state, self.image, self.arch | arch)

    def with_random(self, end: str) -> dict[str, Tensor]:
        """The tensors with others in place of those whose names end so; there must be some."""
        generator, found = torch.Generator().manual_seed(1), [k for k in self.state if k.endswith(end)]
        assert found
        drawn = {k: torch.randn(self.state[k].shape, generator=generator, dtype=torch.float64) for k in found}
        return self.state | drawn


def test_a_fine_tuned_beit3_without_its_head_gives_what_the_head_reads():
    """microsoft/unilm beit3/modeling_finetune.py: head(fc_norm(mean of the patches))."""
    network = Network("beit3", lambda arch: arch["num_classes"])
    headless = {k: v for k, v in network.state.items() if not k.startswith("head.")}
    logits = network(headless) @ network.state["head.weight"].T + network.state["head.bias"]
    torch.testing.assert_close(network(), logits)


@pytest.mark.parametrize("name", ["eva02", "eva02_mim"])
def test_an_eva02_needs_no_word_of_its_rotary_embedding(name):
    """baaivision/EVA EVA-02: all models have it, of the same grid; features of a pretrained one are means of the patches."""
    network = Network(name, lambda arch: name == "eva02_mim" or arch["global_pool"] == "token")
    want = network()
    network.arch = {k: v for k, v in network.arch.items() if k not in ("rope", "ref_grid", "global_pool")}
    torch.testing.assert_close(network(), want, rtol=0, atol=0)


@pytest.mark.parametrize("end", ["inner_attn_ln", "norm"])
def test_a_norm_inside_the_attention_of_an_eva_has_two_names(end):
    """baaivision/EVA EVA-02, and timm: between the heads and their projection; nothing else is of that name."""
    network = Network("eva02", lambda arch: not arch.get("scale_attn"))
    dim, generator = network.arch["embed_dim"], torch.Generator().manual_seed(1)
    norm = {p: torch.randn(dim, generator=generator, dtype=torch.float64) for p in ("weight", "bias")}
    normed = network.state | {f"blocks.0.attn.{end}.{p}": t for p, t in norm.items()}
    other = network.state | {f"blocks.0.attn.inner_attn_ln.{p}": t for p, t in norm.items()}
    torch.testing.assert_close(network(normed), network(other), rtol=0, atol=0)
    # An identity projection shows what it reads: of a norm, the bias alone where the weight is zero.
    blank = normed | {f"blocks.0.attn.{end}.weight": torch.zeros(dim, dtype=torch.float64)}
    moved = dict(network.state)
    name = "blocks.0.attn.proj."
    moved[f"{name}bias"] = moved[f"{name}bias"] + moved[f"{name}weight"] @ norm["bias"]
    moved[f"{name}weight"] = torch.zeros_like(moved[f"{name}weight"])
    torch.testing.assert_close(network(blank), network(moved))


def test_a_projection_beside_the_trunk_reads_its_features():
    """mlfoundations/open_clip src/open_clip/timm_model.py: head.proj(trunk(image))."""
    network = Network("eva_openclip_trunk")
    projection = FORMATS["eva_openclip_projection"]
    trunk = {k: v for k, v in network.state.items() if not k.startswith("visual.trunk.head.")}
    features, generator = network(trunk), torch.Generator().manual_seed(1)
    weight = torch.randn(5, features.shape[1], generator=generator, dtype=torch.float64)
    projected = trunk | {"visual.head.proj.weight": weight}
    torch.testing.assert_close(network(projected), features @ weight.T)
    decoded = projection.decode(projected)
    assert torch.equal(decoded["head.weight"], weight)
    assert torch.equal(decoded["head.bias"], torch.zeros(5, dtype=torch.float64))


def test_mobileclips_stem_and_norms_are_upstreams_unless_asked_otherwise():
    """apple/ml-mobileclip mobileclip/image_encoder.py: padded by one pixel in front of the first convolution."""
    network = Network("mobileclip")
    torch.testing.assert_close(network(stem_padding=(1, 0, 0), eps=1e-5), network(), rtol=0, atol=0)
    for other in ({"stem_padding": (0, 0, 0)}, {"eps": 0.1}):
        assert not torch.allclose(network(**other), network())


def test_windows_of_swin_v2_are_those_of_pretraining_unless_it_is_told():
    """microsoft/Swin-Transformer models/swin_transformer_v2.py: pretrained_window_size=[0, 0] is the window itself."""
    network = Network("swin_v2")
    # Of a larger image, whose windows have neighbours in every stage.
    network.image = torch.randn(1, 3, *(2 * n for n in network.image.shape[2:]), dtype=torch.float64)
    want = network(pretrained_window=0)
    del network.arch["pretrained_window"]
    torch.testing.assert_close(network(), want, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["swin", "swin_native"])
@pytest.mark.parametrize("wide", [False, True], ids=["high", "wide"])
@pytest.mark.parametrize("window", [0, 4], ids=["one-window", "shifted-windows"])
def test_an_oblong_swin_is_its_transpose_turned(name, wide, window):
    """Rows and columns change places in the image, in the patch kernel, in the tables and where tokens are merged."""
    network = Network(name, lambda arch: arch["window_size"] == (window or 16))
    network.arch["window_size"] = window
    kernel, table = "patch_embed.proj.weight", "relative_position_bias_table"
    side = network.image.shape[-1] // network.state[kernel].shape[-1]
    windows, old = {}, dict(network.state)
    for key in [k for k in old if k.endswith(table)]:
        shrunk = side >> int(key.split(".")[1])
        sides = (shrunk, 2 * shrunk) if wide else (2 * shrunk, shrunk)
        windows[key] = tuple(min(of, window or of) for of in sides)
        rows = (2 * windows[key][0] - 1) * (2 * windows[key][1] - 1)
        old[key] = torch.randn(rows, old[key].shape[1], generator=torch.Generator().manual_seed(rows)).double()
    height, width = (side * n * p for n, p in zip((1, 2) if wide else (2, 1), old[kernel].shape[-2:]))
    network.image = torch.randn(3, 3, height, width, generator=torch.Generator().manual_seed(2)).double()
    want = network(old)
    turned = old | {kernel: old[kernel].transpose(-1, -2)}
    turned |= {key: transpose_bias_table(old[key], window) for key, window in windows.items()}
    for key in [k for k in old if "downsample" in k and ("norm" in k or "reduction.weight" in k)]:
        # Of two by two tokens the second and the third change places.
        parts = list(old[key].chunk(4, dim=-1))
        turned[key] = torch.cat([parts[n] for n in (0, 2, 1, 3)], dim=-1)
    network.image = network.image.transpose(-1, -2)
    torch.testing.assert_close(network(turned), want)


def test_kernels_of_a_stem_are_standardised_as_upstream_does_unless_told_otherwise():
    """google-research/vision_transformer vit_jax/models_resnet.py: w / (std + 1e-5), then GroupNorm, which takes off a factor."""
    network = Network("google_npz_stem")
    even = dict(network.state)  # kernels of one deviation, which have one factor
    for key in [k for k, v in even.items() if "conv" in k and v.ndim == 4]:
        even[key] = even[key] / even[key].std(dim=(0, 1, 2), correction=0).clamp(min=1e-9)
    more, less, coarse = (
        network(even, stem_constants=Constants(0.0, *c)) for c in ((9.0, 0.0), (0.0, 0.0), (0.0, 9.0))
    )
    torch.testing.assert_close(more, less)
    assert not torch.allclose(coarse, less)
    uneven, even = (network(stem_constants=Constants(0.0, beside, 1e-5)) for beside in (0.0, 9.0))
    assert not torch.allclose(uneven, even), "kernels of another deviation have another factor"
    torch.testing.assert_close(network(stem_constants=TIMM), network(), rtol=0, atol=0)
    want = network(stem_constants=UPSTREAM)
    assert not torch.equal(want, network())
    del network.arch["stem_constants"]
    torch.testing.assert_close(network(), want, rtol=0, atol=0)


def test_radio_has_no_final_norm():
    """NVlabs/RADIO radio/vit_patch_generator.py: a norm that stands in a file is read by nothing."""
    network = Network("radio")
    norm = {f"radio_model.model.norm.{p}": torch.zeros(network.arch["embed_dim"]).double() for p in ("weight", "bias")}
    want = network()
    torch.testing.assert_close(network(network.state | norm), want, rtol=0, atol=0)
    del network.arch["no_embed_class"]  # positions are added before any token stands in front
    torch.testing.assert_close(network(), want, rtol=0, atol=0)


def test_positions_of_a_naflexvit_are_of_patches_alone():
    """timm/models/naflexvit.py: NaFlexEmbeds adds them before any prefix token, and needs no word for it."""
    network = Network("naflex_native", lambda arch: arch["class_token"])
    want = network()
    network.arch = {k: v for k, v in network.arch.items() if k != "no_embed_class"}
    torch.testing.assert_close(network(), want, rtol=0, atol=0)


def test_dinov3s_masks_are_factors_and_no_bias_is_one_of_zeros():
    """facebookresearch/dinov3 layers/attention.py: LinearKMaskedBias."""
    network = Network("dinov3", lambda arch: arch["bias"] == "learnt")
    folded = {k: v for k, v in network.state.items() if not k.endswith("bias_mask")}
    assert len(folded) < len(network.state)
    folded |= {k: v * network.state[f"{k}_mask"] for k, v in folded.items() if k.endswith("qkv.bias")}
    torch.testing.assert_close(network(folded), network())
    zeros = {k: torch.zeros_like(v) if k.endswith("qkv.bias") else v for k, v in folded.items()}
    torch.testing.assert_close(network({k: v for k, v in zeros.items() if not k.endswith("qkv.bias")}), network(zeros))


@pytest.mark.parametrize(
    ("gamma", "linear"), [("gamma_1", "attn.proj"), ("gamma_2", "mlp.fc2")], ids=["attention", "mlp"]
)
def test_layer_scale_of_beit_is_a_scaled_projection(gamma, linear):
    """microsoft/unilm beit/modeling_finetune.py: Block.forward multiplies what the projection gives."""
    network = Network("beit", lambda arch: arch.get("layer_scale"))
    scaled = network.with_random(gamma)
    folded = dict(scaled)
    for name in [k for k in scaled if k.endswith(gamma)]:
        factor, projection = folded.pop(name), name.removesuffix(gamma) + linear
        folded[f"{projection}.weight"] = factor[:, None] * folded[f"{projection}.weight"]
        folded[f"{projection}.bias"] = factor * folded[f"{projection}.bias"]
    torch.testing.assert_close(network(scaled), network(folded))
    assert not torch.allclose(network(scaled), network())


def test_a_fused_gate_of_eva02_holds_gate_and_value_in_that_order():
    """baaivision/EVA EVA-02: SwiGLU keeps w1 and w2 apart; packed, w12 is one above the other."""
    network = Network("eva02")
    fused = dict(network.state)
    for name in [k for k in fused if ".mlp.w1." in k]:
        fused[name.replace(".w1.", ".w12.")] = torch.cat([fused.pop(name), fused.pop(name.replace(".w1.", ".w2."))])
    assert any(".w12." in name for name in fused)
    torch.testing.assert_close(network(fused), network())


@pytest.mark.parametrize("name", ["google_npz", "legacy_linear"])
def test_the_representation_layer_comes_between_features_and_head(name):
    """google-research/vision_transformer models_vit.py: tanh(pre_logits(x)), then the head; so had timm's models once."""
    network = Network(name, lambda arch: arch["num_classes"])
    flax = name == "google_npz"
    layer, head = ("pre_logits/", "head/kernel") if flax else ("pre_logits.fc.", "head.weight")
    weight = network.state[head] if flax else network.state[head].T
    dim, generator = len(weight), torch.Generator().manual_seed(1)
    kernel, bias = (torch.randn(size, generator=generator, dtype=torch.float64) for size in ((dim, dim), (dim,)))
    layered = network.state | {
        layer + ("kernel" if flax else "weight"): kernel if flax else kernel.T,
        f"{layer}bias": bias,
    }
    features = network({k: v for k, v in layered.items() if not k.startswith(("head", "pre_logits"))})
    logits = torch.tanh(features @ kernel + bias) @ weight + layered["head/bias" if flax else "head.bias"]
    torch.testing.assert_close(network(layered, pre_logits=True), logits)
    torch.testing.assert_close(network(layered, pre_logits=False), network())
    torch.testing.assert_close(network(pre_logits=True), network())
    network.arch.pop("pre_logits", None)
    torch.testing.assert_close(network(layered), logits)


def test_the_scale_of_swin_v2_has_a_ceiling_of_a_hundred():
    """microsoft/Swin-Transformer models/swin_transformer_v2.py: clamp(max=log(1 / 0.01))."""
    network = Network("swin_v2")

    def scaled(by: float) -> Tensor:
        state = {k: torch.full_like(v, by) if k.endswith("logit_scale") else v for k, v in network.state.items()}
        return network(state)

    torch.testing.assert_close(scaled(9.0), scaled(log(100)))
    assert not torch.allclose(scaled(log(100)), scaled(log(90)))


def test_a_bias_of_dinov3s_keys_is_refused_and_those_of_queries_and_values_are_read():
    """facebookresearch/dinov3: queries, keys, values in that order; timm's models have no bias of the keys."""
    network = Network("dinov3")
    patch_size = tuple(network.state["patch_embed.proj.weight"].shape[-2:])
    facts = reference.Facts(3, patch_size, network.arch["num_heads"])

    def only(part: int) -> dict[str, Tensor]:
        """Without masks, with a bias of one of the three."""
        unmasked = {k: v for k, v in network.state.items() if not k.endswith("bias_mask")}
        biases = [k for k in unmasked if k.endswith("attn.qkv.bias")]
        assert biases
        which = torch.arange(3, dtype=torch.float64).eq(part).double()
        return unmasked | {k: which.repeat_interleave(len(unmasked[k]) // 3) for k in biases}

    for part, own in ((0, "q_bias"), (2, "v_bias")):
        decoded = network.format.decode(only(part), facts)
        held = {end for end in ("q_bias", "v_bias") for k, v in decoded.items() if k.endswith(end) and bool(v.any())}
        assert held == {own}
    with pytest.raises(reference.LoadError, match="bias of the keys"):
        network.format.decode(only(1), facts)
    shapes = network.format.decode({k: v.to("meta") for k, v in only(1).items()}, facts)
    assert all(v.is_meta for v in shapes.values())  # without values there is nothing to refuse
