"""The configurations that upstream packages publish, and the family that draws each one; or the reason why none does.

``fixtures/configurations.json`` is a snapshot of what the packages ship: for each package the options of each configuration,
sizes left out. Refresh it with ``python -m tests.upstream.configurations`` (in the environment of ``nox -s upstream``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import msgspec

from ..cases.fixtures import FIXTURES
from ..errors import UserError
from ..families import FAMILIES
from .catalogue import catalogue, models_of

PATH = FIXTURES / "configurations.json"

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """What becomes of the configurations of ``package`` that have all options in ``when``; text may have ``*`` in it.

    Either ``family`` draws them, as architectures that have the options ``arch``, or ``why`` says why no family does.
    """

    package: str
    when: Options = field(default_factory=dict)
    family: str = ""
    arch: Options = field(default_factory=dict)
    why: str = ""

    def covers(self, options: Options) -> bool:
        """Whether a configuration with these options has all that the rule asks for."""
        return all(_fits(options.get(name), wanted) for name, wanted in self.when.items())


def _fits(value: Any, wanted: Any) -> bool:
    return fnmatchcase(value, wanted) if isinstance(value, str) and isinstance(wanted, str) else value == wanted


_TOWER, _TRUNK, _HF, _SAM, _TIMM = "open_clip_torch", "open_clip_torch", "transformers", "segment_anything", "timm"
_OTHER_NETWORK = "no Vision Transformer: its weights are of another architecture"

# The first rule that covers a configuration decides.
RULES = (
    # OpenCLIP's own towers
    Rule(_TOWER, {"resnet": True}, why=_OTHER_NETWORK),
    Rule(_TOWER, {"attentional_pool": True}, why="CoCa's attention pooler has no counterpart in any timm model"),
    Rule(
        _TOWER,
        {"no_ln_pre": True, "final_ln_after_pool": True, "pool_type": "avg"},
        "openclip_tower",
        {"pre_norm": False, "global_pool": "avg", "fc_norm": True},
    ),
    Rule(_TOWER, {"ls_init_value": 0.0001}, "openclip_tower", {"layer_scale": True, "pre_norm": True}),
    Rule(_TOWER, {"quick_gelu": True, "timm_model_name": None}, "openai_clip", {"act": "quick_gelu"}),
    Rule(_TOWER, {"timm_model_name": None}, "openai_clip", {"act": "gelu"}),
    # trunks of timm in OpenCLIP
    Rule(_TRUNK, {"timm_model_name": "vit_*_siglip_*"}, "openclip_trunk", {"global_pool": "map", "head": "none"}),
    Rule(
        _TRUNK,
        {"timm_model_name": "eva02_enormous_*"},
        why="an Eva with post-norms and without rotary embedding; BAAI's own file is drawn, as `eva_clip`",
    ),
    Rule(_TRUNK, {"timm_model_name": "eva02_*_clip_*"}, "eva_openclip_trunk", {"scale_mlp": True, "rope": "cat"}),
    Rule(
        _TRUNK,
        {"timm_model_name": "eva_giant_*"},
        why="EVA-01, an Eva without rotary embedding; BAAI's own file is drawn, as `eva_clip`",
    ),
    Rule(
        _TRUNK,
        {"timm_model_name": "vit_pe_core_*"},
        why="a trunk with rotary embedding and a head of its own; Meta's own file is drawn, as `perception_encoder`",
    ),
    Rule(
        _TRUNK,
        {"timm_model_name": "vit_base_mci_*"},
        why="a trunk with a convolutional stem and a head of its own; Apple's own file is drawn, as `mobileclip`",
    ),
    Rule(
        _TRUNK,
        {"timm_model_name": "vit_large_patch14_clip_224"},
        why="a trunk with a head of its own; but for the head its names are those of `openclip_trunk`",
    ),
    Rule(_TRUNK, {"timm_model_name": "vit_*"}, why="a configuration of which the package names no weights"),
    Rule(_TRUNK, {"timm_model_name": "vitamin_*"}, why="ViTamin is a hybrid with stages of its own, of no family yet"),
    Rule(_TRUNK, {"timm_model_name": "*"}, why=_OTHER_NETWORK),
    # transformers
    Rule(_HF, {"model": "vit"}, "transformers_vit"),
    Rule(_HF, {"model": "deit"}, "transformers_deit_distilled"),
    Rule(_HF, {"model": "vit_mae"}, "transformers_vit_mae"),
    Rule(_HF, {"model": "beit"}, "transformers_beit"),
    Rule(_HF, {"model": "ijepa"}, "transformers_ijepa"),
    Rule(_HF, {"model": "dinov2"}, "transformers_dinov2"),
    Rule(_HF, {"model": "dinov2_with_registers"}, "transformers_dinov2_registers", {"reg_tokens": 4}),
    Rule(_HF, {"model": "clip"}, "transformers_clip", {"head": "projection", "act": "quick_gelu"}),
    Rule(_HF, {"model": "dinov3_vit"}, "transformers_dinov3", {"swiglu": ""}),
    Rule(_HF, {"model": "siglip"}, "transformers_siglip", {"head": "attention", "act": "gelu_tanh"}),
    Rule(
        _HF,
        why="of no family yet; no timm release reads Hugging Face's names, and `unknown_layout` holds releases to that",
    ),
    # Segment Anything
    Rule(_SAM, {"name": "vit_*"}, "sam", {"neck_chans": 8}),
    # timm's registered names that no family claims
    Rule(_TIMM, {"name": "naflexvit_*_parfac_*"}, why="factorized positions: a table for each axis, of another length"),
    Rule(
        _TIMM,
        {"name": "naflexvit_*_radio_*"},
        why="keeps RADIO's whole grid of 128x128 positions, too slow to create for each case; in memory `naflex_radio` draws it",
    ),
    Rule(_TIMM, {"name": "vit_d*_gap_*"}, why="differential attention: tensors of its own in each block"),
    Rule(_TIMM, {"name": "vit_pwee_*"}, why="blocks with attention and MLP in parallel: tensors of their own"),
    Rule(
        _TIMM, {"name": "vit_intern300m_*"}, why="no final norm before its head; timm's own layout, as `timm_native`'s"
    ),
    Rule(
        _TIMM,
        {"name": "vit_base_patch16_rpn_*"},
        why="norms after each residual; timm's own layout, as `timm_native`'s",
    ),
    Rule(
        _TIMM, {"name": "vit_large_patch14_clip_224.apple_*"}, why="OpenCLIP's trunk with a head of its own, see there"
    ),
    Rule(_TIMM, {"name": "test_vit*"}, why="timm's tiny models for its own tests"),
)


@cache
def configurations() -> dict[str, dict[str, dict[str, Any]]]:
    """The options of every published configuration, by package with its version, and name.

    Raises :class:`UserError` if the snapshot cannot be read.
    """
    try:
        published = msgspec.json.decode(PATH.read_bytes(), type=dict[str, dict[str, dict[str, Any]]])
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(
            f"the snapshot of published configurations {PATH} cannot be read: {error}; restore it"
        ) from None
    return published | {f"{_TIMM} (registered names)": {name: {} for name in catalogue()}}


def rule_for(package: str, name: str, options: Options) -> Rule | None:
    """The rule that decides about a configuration; None for a registered model that a family draws."""
    if package.startswith(_TIMM) and name in _claimed():
        return None
    named = {**options, "name": name}
    return next(rule for rule in RULES if package.split()[0] == rule.package and rule.covers(named))


@cache
def _claimed() -> frozenset[str]:
    return frozenset(model.name for family in FAMILIES.values() for model in models_of(family))
