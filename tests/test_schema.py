"""The published JSON Schema: every line that is written is as it says, and a wrong one is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator, ValidationError

from tests.report_results import mixed
from tests.test_results import records
from timm_conformance import run_conformance
from timm_conformance.results.records import Progress, Record, Round, Verdict, encode

SCHEMA = json.loads(
    (Path(__file__).resolve().parent.parent / "docs" / "results.schema.json").read_text(encoding="utf-8")
)
VALIDATOR = Draft202012Validator(SCHEMA)
WHOLE = [*mixed().records, Progress("t", "openai_clip", 3), Round(7, 12, 3.5, True)]


def validate(line: bytes) -> None:
    """Raises ``ValidationError``."""
    VALIDATOR.validate(json.loads(line))


def test_it_is_a_schema_of_every_type_of_record():
    """It says what it is, and `results.py` has no type that it does not know."""
    Draft202012Validator.check_schema(SCHEMA)
    assert {"$schema", "title", "description"} <= SCHEMA.keys()
    assert set(SCHEMA["discriminator"]["mapping"]) == {t.__struct_config__.tag for t in get_args(Record)}


def test_every_type_of_record_is_as_it_says():
    """Made-up results with everything in them."""
    assert {type(record) for record in WHOLE} == set(get_args(Record))
    for record in WHOLE:
        validate(encode(record))


@settings(max_examples=50, deadline=None, database=None)
@given(records)
def test_drawn_records_are_as_it_says(record):
    """Whatever text, counts and cases they hold."""
    validate(encode(record))


def test_a_real_run_is_as_it_says(tmp_path):
    """Header, loads, verdicts, witnesses and footer of a small run."""
    found = run_conformance("reference", families=["openai_clip"], invariants=["strict-load"], profile="smoke")
    found.write(tmp_path / "results.ndjson")
    lines = (tmp_path / "results.ndjson").read_bytes().splitlines()
    assert {json.loads(line)["type"] for line in lines} == {"header", "witness", "loads", "verdict", "footer"}
    for line in lines:
        validate(line)


def _without(field: str, record: dict) -> dict:
    return {k: v for k, v in record.items() if k != field}


@pytest.mark.parametrize("record", WHOLE, ids=lambda record: type(record).__name__)
def test_a_wrong_line_is_not(record):
    """A field that is missing, of another type, or a type of record that there is not."""
    right = json.loads(encode(record))
    required = SCHEMA["$defs"][type(record).__name__]["required"]
    wrong = [_without(field, right) for field in required] + [{**right, field: {"?": None}} for field in required]
    for line in (*wrong, {**right, "type": "hologram"}):
        with pytest.raises(ValidationError):
            VALIDATOR.validate(line)


def test_a_verdict_that_there_is_not_is_wrong():
    """Names are told one by one."""
    verdict = next(json.loads(encode(r)) for r in WHOLE if isinstance(r, Verdict))
    with pytest.raises(ValidationError):
        VALIDATOR.validate({**verdict, "verdict": "perhaps"})
