"""Scripts for a door of timm that gives another model than ``create_model`` makes of the same file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from ..cases.case import Geometry
from ..families.base import PIXELS
from ..ledger.witnesses import WitnessFile
from ..targets.doors import DOORS
from . import entry_points, source_code
from .script import Assertion, Call
from .scriptable_case import ScriptableCase

_DYNAMIC = {
    "dynamic-img-size": ("dynamic_img_size=True",),
    "dynamic-img-pad": ("dynamic_img_size=True", "dynamic_img_pad=True"),
}


_FROM_A_FILE = ("load-checkpoint", "checkpoint-path", "custom-load-unsaid", "state-dict")


def calls(scripted: ScriptableCase) -> Iterator[Call]:
    """Loads by ``create_model`` into ``created``, and by the case's door into ``model``."""
    case = scripted.case
    for call in entry_points.by_create_model(scripted):
        written = "import tempfile" in call.imports
        lines = _by_door(scripted, written)
        if lines is None:
            continue
        indent = "    " if written else ""
        load = [*call.load, *(f"{indent}{line}" for line in ["created = model", *"\n".join(lines).splitlines()])]
        imports = list(call.imports)
        found = scripted.loader.filter_function(scripted.family) if case.door == "load-checkpoint" else None
        if found is not None:
            imports += ["import functools", f"from {found.__module__} import {found.__name__}"]
        yield dataclasses.replace(call, load=load, imports=imports)


def _by_door(scripted: ScriptableCase, written: bool) -> list[str] | None:
    """Lines that load into ``model`` by the door; None if they need the checkpoint in another place."""
    case, family = scripted.case, scripted.family
    door = case.door
    if written != (door in _FROM_A_FILE or family.in_place):
        return None
    make = entry_points.create_model_line
    if door == "state-dict":
        other = 'overlay = {**{k: v for k, v in overlay.items() if k != "file"}, "state_dict": checkpoint}'
        return [other, make(scripted)]
    if door == "load-checkpoint":
        found = scripted.loader.filter_function(family)
        options = scripted.loader.filter_options(family, case.arch)
        keywords = "".join(f", {k}={v!r}" for k, v in options.items())
        convert = f", filter_fn=functools.partial({found.__name__}{keywords})" if found is not None else ""
        return [
            make(scripted, pretrained="False"),
            f"timm.models.load_checkpoint(model, path{convert})",
        ]
    if door == "checkpoint-path":
        return ['overlay.pop("file")', make(scripted, pretrained="False", more=("checkpoint_path=path",))]
    if door == "custom-load-unsaid":
        return ['overlay.pop("custom_load", None)', make(scripted)]
    if door == "set-input-size":
        said = {k: v for k, v in scripted.sizes.items() if k in PIXELS}
        if case.source.patch_size == case.destination.patch_size and case.contents.seed % 2:
            del said["patch_size"]
        resized = ", ".join(f"{k}={source_code.size(k, v)}" for k, v in said.items())
        return [make(scripted, geometry=case.source), f"model.set_input_size({resized})"]
    if door in _DYNAMIC:
        there = Geometry(case.destination.patch_size, case.source.grid_size)
        return [make(scripted, geometry=there, more=() if family.naflex else _DYNAMIC[door])]
    return None


def assertion_of(witness: WitnessFile, scripted: ScriptableCase) -> tuple[Assertion, str]:
    """That the two models agree in the tensor, or in the output, and a pattern of the script's output."""
    if DOORS[scripted.case.door].fed is not None:
        raises = witness.kind.startswith("raises-")
        channels, height, width = scripted.input_size
        cut = "[..., :-1, :-1]" if scripted.case.door == "dynamic-img-pad" else ""
        before = [
            "torch.manual_seed(1)",
            f"image = torch.randn(1, {channels}, {height}, {width}, dtype=torch.float64)",
            "image[..., -1, :] = image[..., -1] = 0",
        ]
        lines = [
            "with torch.inference_mode():",
            "    want = created.double().eval()(image)",
            f"    off = float((model.double().eval()(image{cut}) - want).abs().max() / want.abs().max())",
        ]
        said = witness.kind.removeprefix("raises-") if raises else "off by"
        return _agree("the output", lines, before, raises=raises), said
    if witness.kind == "nothing-used":
        lines = [
            "pairs = zip(created.state_dict().values(), model.state_dict().values())",
            "off = max(float((a - b).abs().max()) for a, b in pairs if a.is_floating_point() and a.numel())",
        ]
        return _agree("every tensor", lines), "off by"
    lines = [
        f'off = float((model.state_dict()["{witness.tensor}"] - created.state_dict()["{witness.tensor}"]).abs().max())'
    ]
    return _agree(witness.tensor, lines), "off by"


def _agree(what: str, lines: list[str], before: tuple[str, ...] | list[str] = (), *, raises: bool = False) -> Assertion:
    ends = ["bug = not off < 1e-3", 'got = f"off by {off:.3g}" if bug else expected']
    return Assertion(f'"{what} as create_model makes it of the same file"', [*lines, *ends], before, raised=str(raises))
