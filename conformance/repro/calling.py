"""How a script loads its checkpoint: by ``create_model`` as a user does, by the loader's function, into a model's parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..loaders import Unsupported
from . import plain, script
from .redrawn import Redrawn
from .script import Call

Convert = Callable[[str], str]


def calls(redrawn: Redrawn) -> Iterator[tuple[Call, str]]:
    """Every way to load a checkpoint, the most usual first, and the code for the tensors that come of it."""
    for call in (_created(redrawn, None), _created(redrawn, redrawn.file)):
        if call is not None:
            yield call, "model.state_dict()"
    found = direct(redrawn)
    if found is None:
        yield in_place(redrawn), "model.state_dict()"
    else:
        call, _ = found
        yield dataclasses.replace(call, load=[*call.load, "model.load_state_dict(state)"]), "model.state_dict()"
        yield call, "state"


def _options(redrawn: Redrawn, created: bool) -> dict[str, Any]:
    """Constructor arguments of the case that the target knows, as the family gives them."""
    family, arch = redrawn.family, redrawn.case.arch
    known = redrawn.loader.model_kwargs(family, arch, created)
    given = ((created and family.created_kwargs) or family.model_kwargs)(arch)
    return {k: given[k] for k in known}


def _created(redrawn: Redrawn, file: str | None) -> Call | None:
    """A load by ``create_model``, where a user can tell it what the case says."""
    case, family, loader = redrawn.case, redrawn.family, redrawn.loader
    if not loader.target.is_timm or not case.model_name or case.declared == "absent":
        return None
    if (family.in_place and file is None) or not loader.knows_model(case.model_name):
        return None
    import timm

    arch = case.arch
    given = script.geometry(family, arch, case.destination)
    if case.in_chans is not None or "in_chans" in arch:
        given["in_chans"] = str(case.in_chans or arch["in_chans"])
    overlay: dict[str, Any] = {"custom_load": True} if family.in_place else {}
    if case.declared == "true":
        overlay["input_size"] = (arch.get("in_chans", 3), *family.img_size(arch, case.source))
    overlay["num_classes"] = arch["num_classes"]

    def build(options: dict[str, Any]) -> torch.nn.Module:
        resolved = {k: v for k, v in loader.model_kwargs(family, arch, True).items() if k in options}
        size = {"img_size": family.img_size(arch, case.destination), "patch_size": case.destination.patch_size}
        plain_overlay = {k: v for k, v in overlay.items() if k != "custom_load"}
        return timm.create_model(case.model_name, pretrained_cfg_overlay=plain_overlay, **size, **resolved)

    try:
        options = plain.fewest(build, _options(redrawn, created=True))
        if case.num_classes is not None:
            options["num_classes"] = case.num_classes
        write = script.writing(file, case.dtype) if file else []
        return script.created(case.model_name, options, overlay, given, write)
    except (Unsupported, TypeError):
        return None


def direct(redrawn: Redrawn) -> tuple[Call, Convert] | None:
    """A load by the loader's function alone, and the code that converts what an expression names."""
    family, loader, arch = redrawn.family, redrawn.loader, redrawn.case.arch
    if family.in_place:
        return None
    names, call = _model(redrawn)
    kind = loader.target.kind
    if kind == "reference":
        function, options = names.imported("reference", "load_state_dict"), {}
    elif kind == "loader":
        function = names.imported(*loader.target.value.split(":"))
        options = loader.filter_options(family, arch)
    else:
        found = loader.filter_function(family)
        if found is None:
            return call, lambda expression: expression
        function, options = names.imported(found.__module__, found.__name__), loader.filter_options(family, arch)
    keywords = "".join(f", {k}={names.value(v)}" for k, v in options.items())

    def convert(expression: str) -> str:
        return f"{function}({expression}, model{keywords})"

    load = [f"state = {convert('checkpoint')}"]
    return Call([*names.imports], call.prepare, load, names.functions), convert


def in_place(redrawn: Redrawn) -> Call:
    """A load of a ``.npz`` file straight into a model's parameters."""
    _, call = _model(redrawn)
    prefix = ', prefix="img/"' if "img/embedding/kernel" in redrawn.given else ""
    lines = [*script.writing("npz", redrawn.case.dtype), f"model.load_pretrained(path{prefix})"]
    return Call([*call.imports, *script.FILE_IMPORTS], call.prepare, script.in_file(lines), call.functions)


def _model(redrawn: Redrawn) -> tuple[plain.Names, Call]:
    """The destination model, built by its class."""
    family, case, loader = redrawn.family, redrawn.case, redrawn.loader
    arch, names = case.arch, plain.Names()

    def build(options: dict[str, Any]) -> torch.nn.Module:
        resolved = {k: v for k, v in loader.model_kwargs(family, arch).items() if k in options}
        size = {"img_size": family.img_size(arch, case.destination), "patch_size": case.destination.patch_size}
        return loader.model_class(family)(**size, **resolved)

    options = plain.fewest(build, _options(redrawn, created=False))
    built = names.imported(f"timm.models.{family.module}", family.model_class)
    sizes = ", ".join(f"{k}={v}" for k, v in script.geometry(family, arch, case.destination).items())
    prepare = [*names.options(options), f"model = {built}({sizes}, **options)"]
    model = redrawn.as_drawn.model()
    if hasattr(model, "pretrained_cfg"):
        prepare.append(f'model.pretrained_cfg = {{"input_size": {model.pretrained_cfg["input_size"]}}}')
    return names, Call([*names.imports], prepare, ["state = checkpoint"], names.functions)
