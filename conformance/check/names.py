"""Model names as users write them: registered ones, those of timm's files on the Hugging Face hub, and local folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UserError
from .reading.limits import MAX_CONFIG, small_json

_HUB = ("hf-hub:", "hf_hub:")
_FOLDER = "local-dir:"
_OWNER = "timm/"


def model_name(text: str) -> str:
    """The registered name that ``text`` means: itself, ``timm/NAME``, ``hf-hub:timm/NAME``, or a folder with a config.json.

    The config is the one that timm's ``save_for_hf`` writes, with the name under ``architecture``. Raises :class:`UserError`.
    """
    if text.startswith(_FOLDER) or Path(text).is_dir():
        return _of_folder(Path(text.removeprefix(_FOLDER)))
    hub = next((h for h in _HUB if text.startswith(h)), "")
    name = text.removeprefix(hub).partition("@")[0] if hub else text
    if hub and not name.startswith(_OWNER):
        raise UserError(
            f"--model {text}: of the hub, only timm/NAME is a registered model; name the architecture that its "
            "config.json has"
        )
    return name.removeprefix(_OWNER)


def model_arguments(text: str) -> dict[str, Any]:
    """The arguments of ``create_model`` that the config.json of a folder saves under ``model_args``; none for a name.

    timm gives them to the model that ``local-dir:`` builds. Raises :class:`UserError`.
    """
    if not (text.startswith(_FOLDER) or Path(text).is_dir()):
        return {}
    saved = _config(Path(text.removeprefix(_FOLDER))).get("model_args")
    return {k: v for k, v in saved.items() if v is not None} if isinstance(saved, dict) else {}


def _config(folder: Path) -> dict[str, Any]:
    try:
        return small_json(folder / "config.json", dict[str, Any], MAX_CONFIG)
    except UserError as error:
        raise UserError(f"--model {folder}: {error}") from None


def _of_folder(folder: Path) -> str:
    path, config = folder / "config.json", _config(folder)
    name = config.get("architecture")
    if not isinstance(name, str):
        raise UserError(
            f"--model {folder}: {path} names no architecture, as timm's save_for_hf writes it; name the timm model"
        )
    tag = (config.get("pretrained_cfg") or {}).get("tag") if isinstance(config.get("pretrained_cfg"), dict) else None
    return f"{name}.{tag}" if tag and "." not in name else name
