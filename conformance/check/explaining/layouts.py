"""Known layouts that none of timm's Vision Transformer loaders reads, told by the keys that only they have.

Keys are patterns: ``*`` is a number, and anything may stand before them. The names were taken from the source named with each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .keys import patterns

_RENAME = "rename its tensors to timm's, or load it with the code that wrote it"
_NO_VIT = "it is none of timm's Vision Transformers, which alone are judged here"
_VIDEO = "it reads video, timm's Vision Transformers read images: load it with the code that wrote it"
_HUGGING = (
    "load it with transformers, or rename its tensors to timm's; query, key and value are one tensor, attn.qkv, there"
)
_WHOLE = "take its backbone: the names without the prefix of the backbone, and without the head"


@dataclass(frozen=True)
class Layout:
    """A layout by ``name``, with its ``source``; ``keys`` are patterns that all occur in it, ``to_do`` what a user can do.

    A layout with ``part`` names what lies beside a backbone, such as a detection head, and says nothing of the backbone.
    """

    name: str
    source: str
    keys: tuple[str, ...]
    to_do: str
    part: bool = False


# A layout stands before any other whose keys it has as well.
LAYOUTS: tuple[Layout, ...] = (
    Layout(
        "SatMAE with groups of channels",
        "sustainlab-group/SatMAE",
        ("channel_embed", "patch_embed.*.proj.weight"),
        "each group of channels has a patch kernel of its own: no model of timm has that; load it with SatMAE's code",
    ),
    Layout(
        "InternViT",
        "OpenGVLab/InternVL",
        ("embeddings.class_embedding", "encoder.layers.*.attn.qkv.weight"),
        "timm's vit_intern* models have the same tensors under timm's names: rename embeddings.class_embedding to cls_token, "
        "embeddings.position_embedding to pos_embed, embeddings.patch_embedding to patch_embed.proj, encoder.layers to blocks, "
        "lsN to lsN.gamma",
    ),
    Layout("MViT", "facebookresearch/SlowFast", ("blocks.*.attn.pool_q.weight",), _VIDEO),
    Layout("TimeSformer", "facebookresearch/TimeSformer", ("blocks.*.temporal_attn.qkv.weight",), _VIDEO),
    Layout(
        "VideoMAE, pre-training",
        "MCG-NJU/VideoMAE",
        ("encoder_to_decoder.weight", "encoder.blocks.*.norm1.weight"),
        _VIDEO,
    ),
    Layout("MultiMAE", "EPFL-VILAB/MultiMAE", ("input_adapters.rgb.proj.weight", "encoder.*.norm1.weight"), _RENAME),
    Layout("SimMIM", "microsoft/SimMIM", ("encoder.mask_token", "decoder.*.weight"), "keep what lies under encoder."),
    Layout(
        "transformers' ViTMAE",
        "huggingface/transformers",
        ("decoder.decoder_layers.*.layernorm_before.weight",),
        _HUGGING,
    ),
    Layout(
        "transformers' BEiT",
        "huggingface/transformers",
        ("encoder.layer.*.lambda_*", "embeddings.patch_embeddings.projection.weight"),
        _HUGGING,
    ),
    Layout(
        "transformers' Swin",
        "huggingface/transformers",
        ("encoder.layers.*.blocks.*.attention.self.query.weight",),
        _HUGGING,
    ),
    Layout("Qwen-VL's image tower", "QwenLM/Qwen2.5-VL", ("blocks.*.attn.qkv.weight", "merger.mlp.*.weight"), _RENAME),
    Layout(
        "ImageBind", "facebookresearch/ImageBind", ("modality_trunks.vision.blocks.*.attn.in_proj_weight",), _RENAME
    ),
    Layout("SAM 2 (Hiera)", "facebookresearch/sam2", ("image_encoder.trunk.blocks.*.attn.qkv.weight",), _NO_VIT),
    Layout(
        "DiT, a diffusion transformer",
        "facebookresearch/DiT",
        ("blocks.*.adaLN_modulation.*.weight", "t_embedder.mlp.*.weight"),
        _NO_VIT,
    ),
    Layout("a diffusion transformer", "huggingface/diffusers", ("transformer_blocks.*.attn1.to_q.weight",), _NO_VIT),
    Layout("a diffusion UNet", "CompVis/stable-diffusion", ("input_blocks.*.*.in_layers.*.weight",), _NO_VIT),
    Layout("a diffusion UNet", "huggingface/diffusers", ("down_blocks.*.resnets.*.conv1.weight",), _NO_VIT),
    Layout(
        "MaxViT, in timm's names",
        "huggingface/pytorch-image-models",
        ("stages.*.blocks.*.attn_grid.attn.qkv.weight",),
        _NO_VIT,
    ),
    Layout("ConvNeXt", "facebookresearch/ConvNeXt", ("stages.*.*.dwconv.weight",), _NO_VIT),
    Layout(
        "ConvNeXt, in timm's names", "huggingface/pytorch-image-models", ("stages.*.blocks.*.conv_dw.weight",), _NO_VIT
    ),
    Layout("ResNet", "pytorch/vision", ("layer1.*.conv1.weight", "layer1.*.bn1.running_mean"), _NO_VIT),
    Layout(
        "EfficientNet or MobileNet",
        "huggingface/pytorch-image-models",
        ("conv_stem.weight", "blocks.*.*.conv_pw*.weight"),
        _NO_VIT,
    ),
    Layout("MLP-Mixer", "huggingface/pytorch-image-models", ("blocks.*.mlp_tokens.fc1.weight",), _NO_VIT),
    Layout("XCiT", "facebookresearch/xcit", ("blocks.*.attn.temperature", "cls_attn_blocks.*.norm1.weight"), _NO_VIT),
    Layout("CaiT", "facebookresearch/deit", ("blocks_token_only.*.attn.q.weight",), _NO_VIT),
    Layout("PVT", "whai362/PVT", ("block1.*.attn.q.weight", "block1.*.attn.kv.weight"), _NO_VIT),
    Layout("T2T-ViT", "yitu-opensource/T2T-ViT", ("tokens_to_token.project.weight",), _NO_VIT),
    Layout("CrossViT", "IBM/CrossViT", ("blocks.*.blocks.*.*.attn.qkv.weight",), _NO_VIT),
    Layout(
        "DETR",
        "facebookresearch/detr",
        ("query_embed.weight", "transformer.encoder.layers.*.self_attn.in_proj_weight"),
        _NO_VIT,
    ),
    Layout(
        "BERT",
        "google-research/bert",
        ("embeddings.word_embeddings.weight", "encoder.layer.*.attention.self.query.weight"),
        _NO_VIT,
    ),
    Layout("GPT-2", "openai/gpt-2", ("wte.weight", "h.*.attn.c_attn.weight"), _NO_VIT),
    Layout(
        "a language model of the LLaMA kind",
        "meta-llama/llama",
        ("embed_tokens.weight", "layers.*.self_attn.q_proj.weight"),
        _NO_VIT,
    ),
    Layout(
        "transformers' CLIP text model",
        "huggingface/transformers",
        ("text_model.embeddings.token_embedding.weight",),
        _NO_VIT,
    ),
    Layout(
        "a segmentor of OpenMMLab", "open-mmlab/mmsegmentation", ("decode_head.conv_seg.weight",), _WHOLE, part=True
    ),
    Layout("a segmentor", "open-mmlab/mmsegmentation", ("decode_head.*",), _WHOLE, part=True),
    Layout("a detector", "open-mmlab/mmdetection", ("bbox_head.*",), _WHOLE, part=True),
    Layout("a detector", "open-mmlab/mmdetection", ("roi_head.*",), _WHOLE, part=True),
    Layout("ViTDet, a detector", "facebookresearch/detectron2", ("backbone.simfp_*",), _WHOLE, part=True),
    Layout("a pose estimator", "open-mmlab/mmpose", ("keypoint_head.*",), _WHOLE, part=True),
    Layout(
        "BLIP",
        "salesforce/BLIP",
        ("visual_encoder.blocks.*.attn.qkv.weight", "text_decoder.*"),
        "keep what lies under visual_encoder.",
        part=True,
    ),
)


def recognise_layout(names: Iterable[str]) -> Layout | None:
    """The layout whose keys all occur among tensor names, behind any prefix; None if there is none.

    A layout of a whole model comes before one that names a part only.
    """
    found = list(patterns(names))
    fits = [layout for layout in LAYOUTS if all(evidence(key, found) for key in layout.keys)]
    return next(iter(sorted(fits, key=lambda layout: layout.part)), None)


def shown_keys(layout: Layout, names: Iterable[str]) -> tuple[str, ...]:
    """The keys of a layout as they stand in a file, one for each pattern."""
    found = list(patterns(names))
    return tuple(evidence(key, found) or key for key in layout.keys)


def evidence(key: str, found: Iterable[str]) -> str:
    """The first of these patterns that a layout's key is, with any prefix; empty if there is none.

    A ``*`` at the end of a key stands for the rest of a name, in the middle for a number.
    """
    head, rest = (key[:-1], r".*") if key.endswith(".*") or key.endswith("_*") else (key, "")
    wanted = re.compile(r"(.*\.)?" + re.escape(head).replace(r"\*", r"(\*|\d+|\w*\*?)") + rest)
    return next((name for name in found if wanted.fullmatch(name)), "")
