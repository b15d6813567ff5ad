"""What is drawn for a family, and the command that lists it."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from timm_conformance.cases.profiles import PROFILES
from timm_conformance.cli.main import main
from timm_conformance.drawing.drawing import Drawing
from timm_conformance.drawing.options import options_of
from timm_conformance.families import FAMILIES

SOME = ("openai_clip", "swin_v2", "dinov2_registers", "naflex_vit")


def listed(*arguments: str) -> list[dict]:
    answer = CliRunner().invoke(main, ["list", "options", "--format", "json", *arguments], catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.output)


@pytest.mark.parametrize("name", SOME)
def test_every_value_is_told(name: str) -> None:
    """Twice as many draws find no other."""
    family = FAMILIES[name]
    assert list(options_of(family)) == list(options_of(family, 300))


def test_the_command_tells_a_familys_options_apart() -> None:
    rows = {(row["of"], row["option"]): row["values"] for row in listed("--family", "swin_v2")}
    assert rows["checkpoint", "window_size"] == [4, 16]
    assert rows["asked", "qkv_bias"] == [False, True]
    assert "set-input-size" in rows["file", "door"]
    assert {row["family"] for row in listed("--family", "swin_v2", "--family", "swin")} == {"swin", "swin_v2"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["options", "--family", "swim"], "unknown family 'swim': did you mean 'swin'?"),
        (["ledger", "--family", "swin"], "--family goes with list options, not with list ledger"),
    ],
)
def test_a_wrong_family_is_one_line(arguments: list[str], said: str) -> None:
    answer = CliRunner().invoke(main, ["list", *arguments])
    assert (answer.exit_code, answer.output.strip()) == (2, f"timm-conformance: {said}")


def test_other_options_are_asked_for_alone_and_two_at_once_with_other_channels_now_and_then() -> None:
    """No ask names an option twice, so two are the options of both."""
    family = FAMILIES["dinov2_registers"]
    asked = [c for cases in Drawing(PROFILES["deep"], 0).cases(family).values() for c in cases if c.asked]
    alone = [c for c in asked if any(c.asked == ask for ask in family.asks(c.arch))]
    pairs = [c for c in asked if c not in alone]
    assert len(pairs) > 5
    assert len(alone) > 2 * len(pairs)
    for case in pairs:
        parts = [ask for ask in family.asks(case.arch) if ask.items() <= case.asked.items()]
        assert case.asked.keys() == {name for ask in parts for name in ask}
    assert 0 < sum(c.in_chans is not None for c in asked) < len(asked) / 3
    fewer = {(c.arch["reg_tokens"], c.asked["reg_tokens"]) for c in asked if "reg_tokens" in c.asked}
    assert any(own > there > 0 for own, there in fewer)
