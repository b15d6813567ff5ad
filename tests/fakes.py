"""Loaders that each violate one invariant, and a perfect one: targets ``loader:tests.fakes:NAME``.

Every fake is the corrected loader with one part replaced, or with one edit of its input or result.
"""

from __future__ import annotations

import re
from collections import deque
from unittest import mock

import torch

from timm_conformance import reference
from timm_conformance.reference.flax import PREFIXES
from timm_conformance.reference.resize import BICUBIC_ANTIALIAS, Resampling

from .fakes_rejection import *  # noqa: F403
from .fakes_relative import *  # noqa: F403
from .fakes_resampling import *  # noqa: F403 - one module to name in a target
from .fakes_resampling import GRID, KERNEL, loader_with

HEAD_BIAS = "head.bias"
_SEEN: deque = deque(maxlen=256)


def _upstream(checkpoint):
    """Whether the checkpoint still has to be converted."""
    return reference.detect(reference.unwrap(checkpoint)).name not in ("timm_native", "hybrid_convstem")


def _edited(checkpoint, model, edit, how=None):
    """The perfect result with the tensors that ``edit(state)`` returns replaced, where a conversion took place."""
    state = reference.load_state_dict(checkpoint, model, resampling=how)
    return state | edit(state) if _upstream(checkpoint) else state


def _misread(checkpoint, model, edit, how=None):
    """The perfect result for a checkpoint with the tensors that ``edit(state)`` returns replaced, where it is upstream's."""
    state = reference.unwrap(checkpoint)
    return reference.load_state_dict(state | edit(state) if _upstream(state) else state, model, resampling=how)


def _exchanged(checkpoint, model, one, other):
    """The perfect result with every tensor of a module or parameter called ``one`` and that called ``other`` exchanged."""
    turned = {one: other, other: one}
    names = lambda s: {k: ".".join(turned.get(part, part) for part in k.split(".")) for k in s}  # noqa: E731
    return _edited(checkpoint, model, lambda s: {new: s[old] for old, new in names(s).items() if new != old})


def perfect(checkpoint, model, interpolation=None, antialias=None, align_corners=False):
    """Breaks nothing; resamples as it is asked to, or as the format says."""
    how = Resampling(interpolation, antialias, align_corners) if interpolation else None
    return reference.load_state_dict(checkpoint, model, resampling=how)


def perfect_without_options(checkpoint, model):
    """Breaks nothing; is not told how to resample a file that is in timm's layout already."""
    return reference.load_state_dict(checkpoint, model)


# -- names and shapes --------------------------------------------------------------------------------------------------


def returns_early(checkpoint, model):
    """Never resamples what it converts, like timm 0.9.x with CLIP."""
    if not _upstream(checkpoint):
        return perfect(checkpoint, model)
    same = lambda tensor, *_: tensor  # noqa: E731
    return loader_with(checkpoint, model, resample_patch_kernel=same, resample_position_grid=same, complete=same)


def resamples_the_kernel_only(checkpoint, model):
    """Leaves the position grid as it was."""
    return loader_with(checkpoint, model, resample_position_grid=lambda pos, *_: pos, _complete=lambda state, _: state)


def bilinear_for_upstream(checkpoint, model):
    """Resamples what it converts by another kernel than what it does not."""
    how = Resampling("bilinear") if _upstream(checkpoint) else BICUBIC_ANTIALIAS
    return reference.load_state_dict(checkpoint, model, resampling=how)


def drops_a_bias(checkpoint, model):
    """Loses one tensor."""
    return {k: v for k, v in perfect(checkpoint, model).items() if k != "blocks.0.attn.proj.bias"}


def raises_on_linear_kernels(checkpoint, model):
    """Raises on a patch embedding stored as a matrix."""
    if reference.unwrap(checkpoint)[KERNEL].ndim != 4:
        raise RuntimeError("expected a 4-D kernel")
    return perfect(checkpoint, model)


def returns_nothing(checkpoint, model):
    """Returns None."""


def names_nothing(checkpoint, model):
    """Calls a tensor None."""
    state = reference.load_state_dict(checkpoint, model)
    return {(None if name == HEAD_BIAS else name): tensor for name, tensor in state.items()}


def keeps_the_mask_token(checkpoint, model):
    """Passes a tensor of the pre-training on."""
    return _edited(checkpoint, model, lambda state: {"mask_token": state["cls_token"][0]})


def ignores_wrappers(checkpoint, model):
    """Looks for tensors at the top level only."""
    reference.detect(checkpoint)
    return perfect(checkpoint, model)


def opens_one_wrapper(checkpoint, model):
    """Opens one wrapper, not two."""
    return ignores_wrappers(
        next((checkpoint[w] for w in ("model", "state_dict") if w in checkpoint), checkpoint), model
    )


def passes_foreign_keys(checkpoint, model):
    """Passes the text tower on."""
    text = {k: v for k, v in reference.unwrap(checkpoint).items() if not k.startswith("visual.")}
    return _edited(checkpoint, model, lambda state: text)


def takes_text_for_image(checkpoint, model):
    """Fills a block of the image tower from the text tower's block of the same number."""
    weight = reference.unwrap(checkpoint).get("transformer.resblocks.0.ln_1.weight")
    return _edited(checkpoint, model, lambda state: {} if weight is None else {"blocks.0.norm1.weight": weight})


def numbers_blocks_as_met(checkpoint, model):
    """Numbers the blocks in the order it meets them."""
    state = perfect(checkpoint, model)
    met = list(dict.fromkeys(k.split(".")[1] for k in state if k.startswith("blocks.")))
    number = {f"blocks.{i}.": f"blocks.{n}." for n, i in enumerate(met)}
    return {next((k.replace(a, b) for a, b in number.items() if k.startswith(a)), k): v for k, v in state.items()}


def takes_the_first_norm(checkpoint, model):
    """Takes the first weight vector it meets for the norm before the blocks."""
    vectors = [v for k, v in reference.unwrap(checkpoint).items() if k.endswith(".weight") and v.ndim == 1]
    return _edited(checkpoint, model, lambda state: {"norm_pre.weight": vectors[0]})


# -- conversions -------------------------------------------------------------------------------------------------------


def fuses_qkv_in_wrong_order(checkpoint, model):
    """Fuses k, q, v in place of q, k, v."""

    def swap(weight):
        q, k, v = weight.chunk(3)
        return torch.cat([k, q, v])

    return _edited(checkpoint, model, lambda state: {k: swap(v) for k, v in state.items() if ".qkv." in k})


def swaps_norms(checkpoint, model):
    """Exchanges the two norms of a block."""
    return _exchanged(checkpoint, model, "norm1", "norm2")


def transposes_the_head(checkpoint, model):
    """Reads the projection's memory the other way round."""

    def edit(state):
        weight = state["head.weight"]
        return {"head.weight": weight.T.reshape(weight.shape)}

    return _edited(checkpoint, model, edit)


def zeroes_a_bias(checkpoint, model):
    """Forgets the value of one bias."""
    return _edited(checkpoint, model, lambda state: {"norm.bias": torch.zeros_like(state["norm.bias"])})


def swaps_gate_and_value(checkpoint, model):
    """Exchanges the halves of a gated MLP's first layer."""
    fc1 = lambda s: [k for k in s if ".mlp.fc1." in k]  # noqa: E731
    return _edited(checkpoint, model, lambda s: {k: torch.cat(s[k].chunk(2)[::-1]) for k in fc1(s)})


def rounds_to_bfloat16(checkpoint, model):
    """Rounds every tensor on its way."""
    return {k: v.bfloat16().to(v.dtype) for k, v in perfect(checkpoint, model).items()}


def forgets_the_class_row(checkpoint, model):
    """Drops the class token's position in place of folding it."""
    return _edited(checkpoint, model, lambda state: {"cls_token": reference.unwrap(checkpoint)["cls_token"]})


def adds_position_to_registers(checkpoint, model):
    """Adds the class token's position to the registers too."""
    row = reference.unwrap(checkpoint)[GRID][:, :1]
    return _edited(checkpoint, model, lambda state: {"reg_token": state["reg_token"] + row})


# -- manners -----------------------------------------------------------------------------------------------------------


def pops_from_its_input(checkpoint, model):
    """Pops a tensor it has no use for from the caller's dict."""
    state = perfect(checkpoint, model)
    _innermost(checkpoint).pop("mask_token", None)
    return state


def edits_in_place(checkpoint, model):
    """Folds the class row into the caller's own class token."""
    state, given = perfect(checkpoint, model), reference.unwrap(checkpoint)
    if _upstream(checkpoint):
        given["cls_token"] += given[GRID][:, :1]
    return state


def reorders_its_input(checkpoint, model):
    """Moves the caller's first key to the end."""
    state, given = perfect(checkpoint, model), _innermost(checkpoint)
    first = next(iter(given))
    given[first] = given.pop(first)
    return state


def _innermost(checkpoint):
    """The dict of tensors itself, out of its wrappers."""
    for wrapper in ("model", "state_dict"):
        checkpoint = checkpoint.get(wrapper, checkpoint)
    return checkpoint


def remembers_the_checkpoint(checkpoint, model):
    """Scales a checkpoint object it has seen before."""
    seen = any(checkpoint is other for other in _SEEN)
    _SEEN.append(checkpoint)
    state = perfect(checkpoint, model)
    return {k: 2 * v for k, v in state.items()} if seen else state


def converts_again(checkpoint, model):
    """Transposes the head of a checkpoint that is converted already."""
    state = perfect(checkpoint, model)
    if not _upstream(checkpoint) and "head.weight" in state:
        weight = state["head.weight"]
        state["head.weight"] = weight.T.reshape(weight.shape)
    return state


def casts_to_float32(checkpoint, model):
    """Hands out float32 whatever the checkpoint's dtype."""
    return {k: v.float() for k, v in perfect(checkpoint, model).items()}


def head_bias_in_float32(checkpoint, model):
    """Creates the bias the format does not have without the checkpoint's dtype."""
    return _edited(checkpoint, model, lambda state: {HEAD_BIAS: state[HEAD_BIAS].float()})


def head_bias_on_cpu(checkpoint, model):
    """Creates the bias the format does not have on the CPU, wherever the checkpoint is."""
    like = lambda bias: torch.zeros(bias.shape, dtype=bias.dtype)  # noqa: E731
    return _edited(checkpoint, model, lambda state: {HEAD_BIAS: like(state[HEAD_BIAS])})


def moves_to_cpu(checkpoint, model):
    """Copies every tensor to the CPU, which the meta device refuses."""
    return {k: v.cpu() for k, v in perfect(checkpoint, model).items()}


def through_numpy(checkpoint, model):
    """Goes through NumPy, which knows neither meta tensors nor bfloat16."""
    return {k: torch.from_numpy(v.numpy()) for k, v in perfect(checkpoint, model).items()}


def differs_under_create_model(checkpoint, model):
    """Forgets a norm in models that timm.create_model made."""
    state = perfect(checkpoint, model)
    return state | ({"norm.weight": 0 * state["norm.weight"]} if hasattr(model, "default_cfg") else {})


def works_in_the_default_dtype(checkpoint, model):
    """Runs a weight through a product in the default dtype, if another one is set, which autocast rounds."""
    default = torch.get_default_dtype()

    def one(weight):
        worked = weight if default == torch.float32 else weight.to(default)
        return (torch.eye(len(weight), dtype=worked.dtype, device=weight.device) @ worked).to(weight.dtype)

    return _edited(checkpoint, model, lambda state: {k: one(v) for k, v in state.items() if k.endswith("fc1.weight")})


def resets_torch_under_create_model(checkpoint, model):
    """Sets the default dtype and the grad mode to torch's own for models that timm.create_model made, and leaves them so."""
    if hasattr(model, "default_cfg"):
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
    return perfect(checkpoint, model)


def lends_the_model_a_tensor(checkpoint, model):
    """Puts a tensor of the checkpoint in place of the model's."""
    state = perfect(checkpoint, model)
    model.norm.weight = torch.nn.Parameter(state["norm.weight"], requires_grad=False)
    return state


def lends_a_tensor_under_create_model(checkpoint, model):
    """Does so to models that timm.create_model made."""
    return (lends_the_model_a_tensor if hasattr(model, "default_cfg") else perfect)(checkpoint, model)


def overflows_in_half(checkpoint, model):
    """Scales half-precision tensors beyond their range and back."""
    scaled = lambda v: v * 2.0**18 / 2.0**18 if v.dtype == torch.float16 else v  # noqa: E731
    return {k: scaled(v) for k, v in perfect(checkpoint, model).items()}


# -- one format's own --------------------------------------------------------------------------------------------------


def fuses_projections_as_met(checkpoint, model):
    """Stacks BEiT-3's q, k and v in the order it meets them."""
    met = [k for k in reference.unwrap(checkpoint) if re.search(r"\.self_attn\.[qkv]_proj\.A\.", k)]
    named = {k: re.sub(r"[qkv](?=_proj)", "{}", k) for k in met}
    order = {group: [k for k in met if named[k] == group] for group in named.values()}
    return _misread(
        checkpoint, model, lambda s: {g.format(n): s[k] for g, keys in order.items() for n, k in zip("qkv", keys)}
    )


def skips_one_row_at_either_end(checkpoint, model):
    """Takes BEiT-3's unused position rows to be the first and the last, not the first two."""
    key = "beit3.encoder.embed_positions.A.weight"
    shifted = lambda rows: torch.cat([rows[:1], rows[:-1]])  # noqa: E731
    return _misread(checkpoint, model, lambda state: {key: shifted(state[key])})


def swaps_fc1_and_fc3(checkpoint, model):
    """Takes AIMv2's third layer for the gate."""
    return _exchanged(checkpoint, model, "fc1_g", "fc1_x")


def takes_a_register_for_the_class_token(checkpoint, model, align_corners):
    """Exchanges RADIO's class token and its first register."""
    key = "radio_model.model.patch_generator.cls_token.token"
    swapped = lambda rows: torch.cat([rows[1:2], rows[:1], rows[2:]])  # noqa: E731
    return _misread(checkpoint, model, lambda s: {key: swapped(s[key])}, Resampling("bilinear", False, align_corners))


def keeps_the_out_kernel_as_stored(checkpoint, model):
    """Flattens the heads of Flax's output projection and does not transpose it."""
    out = lambda s: [k for k in s if k.endswith("attn.proj.weight")]  # noqa: E731
    return _edited(checkpoint, model, lambda s: {k: s[k].T.contiguous() for k in out(s)})


def reads_scanned_blocks_in_reverse(checkpoint, model):
    """Takes the first of big_vision's stacked blocks for the last."""
    return perfect({k: v[::-1] if "/encoderblock/" in k else v for k, v in checkpoint.items()}, model)


def knows_no_image_prefix(checkpoint, model):
    """Looks for parameters under ``params/``, not under ``params/img/``."""
    known = tuple(p for p in PREFIXES if p != "params/img/")
    with mock.patch("timm_conformance.reference.flax.PREFIXES", known):
        return perfect(checkpoint, model)


def swaps_running_statistics(checkpoint, model):
    """Exchanges the running mean and variance of MobileCLIP's stem."""
    return _exchanged(checkpoint, model, "running_mean", "running_var")


def takes_the_target_encoder(checkpoint, model):
    """Takes I-JEPA's averaged encoder, which stands beside the one that was trained."""
    inner = checkpoint.get("model", checkpoint)
    return perfect(inner.get("target_encoder", inner), model)


def swaps_layer_scales(checkpoint, model):
    """Exchanges the two layer scales of a DeiT-III block."""
    return _exchanged(checkpoint, model, "ls1", "ls2")


def swaps_the_two_tokens(checkpoint, model):
    """Exchanges DeiT's class token and distillation token."""
    return _edited(checkpoint, model, lambda s: {"cls_token": s["dist_token"], "dist_token": s["cls_token"]})
