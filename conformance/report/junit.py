"""JUnit XML as CI systems read it: one suite for each target, one case for each family and invariant."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as xml

from ..results.records import Results, Verdict


def _body(verdict: Verdict, case: xml.Element) -> None:
    if verdict.verdict == "fail":
        for failure in verdict.failures:
            text = "\n".join(filter(None, (failure.message, failure.same_as, failure.case.describe())))
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
            _body(verdict, xml.SubElement(suite, "testcase", classname=verdict.family, name=verdict.invariant))
    xml.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
