"""JUnit XML as CI systems read it: one suite for each target, one case for each family and invariant."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as xml

from ..results.causes import by_cause
from ..results.explained import told_of
from ..results.records import Results, Verdict


def _body(verdict: Verdict, case: xml.Element, causes: Mapping[str, str]) -> None:
    if verdict.verdict == "fail":
        for failure in verdict.failures:
            lines = [f"{label}: {text}" for label, text in told_of(verdict.invariant, failure)]
            text = "\n".join([*lines, f"cause: {causes[failure.fingerprint]}"])
            xml.SubElement(case, "failure", type=failure.kind, message=failure.fingerprint).text = text
    elif verdict.verdict == "error":
        xml.SubElement(case, "error", message=verdict.reason)
    elif verdict.verdict == "known":
        message = ": ".join(filter(None, ("known", verdict.reason, ", ".join(verdict.known))))
        xml.SubElement(case, "skipped", message=message)
    elif verdict.verdict == "not-applicable":
        xml.SubElement(case, "skipped", message=verdict.reason)


def write(results: Results, path: Path) -> None:
    """Write the verdicts of a run."""
    root = xml.Element("testsuites", name="timm-conformance")
    groups = by_cause(results)
    causes = {
        (n.target, n.failure.fingerprint): f"{i} of {len(groups)}, {group.shown.failure.fingerprint}"
        for i, group in enumerate(groups, 1)
        for n in group.failures
    }
    for target in results.targets:
        verdicts, error = results.of(target), results.errors.get(target)
        counts = {n: sum(v.verdict == n for v in verdicts) for n in ("fail", "error", "known", "not-applicable")}
        suite = xml.SubElement(
            root,
            "testsuite",
            name=target,
            tests=str(len(verdicts) + (error is not None)),
            failures=str(counts["fail"]),
            errors=str(counts["error"] + (error is not None)),
            skipped=str(counts["known"] + counts["not-applicable"]),
        )
        for header in results.headers:
            if header.target == target and header.probes:
                properties = xml.SubElement(suite, "properties")
                for answer in header.probes:
                    xml.SubElement(properties, "property", name=answer.name, value=answer.describe())
        if error is not None:
            xml.SubElement(xml.SubElement(suite, "testcase", classname="target", name="starts"), "error", message=error)
        for verdict in verdicts:
            case = xml.SubElement(suite, "testcase", classname=verdict.family, name=verdict.invariant)
            _body(verdict, case, {name: cause for (where, name), cause in causes.items() if where == target})
    xml.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
