"""Made-up results for the tests of reports: everything a page may meet, and as much of it as a page may hold."""

from __future__ import annotations

from timm_conformance.cases.case import Case, Geometry
from timm_conformance.results.records import (
    Cause,
    Change,
    Explanation,
    Failure,
    Footer,
    Header,
    LoadedCase,
    Loads,
    Results,
    TargetError,
    Verdict,
    Witness,
)

HOSTILE = "</script><script>document.title = 'owned'</script><img src=x onerror=alert(1)> & \"quoted\""
CASE = Case("openai_clip", {"embed_dim": 8}, Geometry((2, 2), (1, 1)), Geometry((3, 3), (1, 1)))
OLD, NEW, LOST = "timm==0.9.16", "timm==1.0.31", "timm==0.9.3"
MUST = {"strict-load": ["native", "patch-grow"], "repeatable": []}
UNKNOWN = "timm 0.9.16 does not know the format (known since 1.0.31)"


def header(target: str, **changed) -> Header:
    """What a worker of this target ran on."""
    facts = {"timm": target[6:], "python": "3.11", "torch": "2.13", "platform": "Linux", "device": "cpu"}
    facts |= {"shims": ["torchvision-operators"], "profile": "gate", "seed": 7, "families": [], "invariants": MUST}
    return Header(target, **(facts | {"suite": "abc123"} | changed))


def failure(message: str = HOSTILE) -> Failure:
    """A new failure of CLIP's strict load."""
    name = "strict-load:openai_clip:size-mismatch:patch_embed.proj.weight[patch-grow]"
    numbers = ["expected  x[0:2] of 4:  1  <b>", "got       x[0:2] of 4:  2  <b>"]
    explained = Explanation("It loads.", "a file of CLIP", "load(file)", numbers, "got = expected with <i> exchanged")
    return Failure(
        name, "size-mismatch", "patch_embed.proj.weight", message, CASE, 3, 4.25, explanation=explained, shrunk=True
    )


def verdict(target: str, family: str, invariant: str, name: str, **more) -> Verdict:
    """A verdict over ten cases."""
    counts = {"known": {"known": 4, "pass": 6}, "fail": {"fail": 2, "blocked": 8}, "not-applicable": {}}
    return Verdict(target, family, invariant, name, counts.get(name, {"pass": 10}), **more)


def mixed() -> Results:
    """Two releases, one that cannot start, and a loader judged in two shards; every verdict there is."""
    loader, regimes = "loader:mine:convert", {"native": 3}
    records = [
        *(header(t) for t in (NEW, OLD, loader)),
        header(loader, platform="another machine"),
        TargetError(LOST, f"cannot import: {HOSTILE}"),
        verdict(
            OLD, "openai_clip", "strict-load", "known", known={"clip-early-return": 4}, regimes=regimes, worst=0.25
        ),
        verdict(OLD, "openai_clip", "repeatable", "pass"),
        verdict(
            NEW, "openai_clip", "strict-load", "fail", failures=[failure()], regimes={"native": 3, "patch-grow": 2}
        ),
        verdict(NEW, "openai_clip", "repeatable", "pass", worst=0.0312345),
        *(verdict(OLD, "radio", i, "not-applicable", reason=UNKNOWN) for i in MUST),
        verdict(NEW, "radio", "strict-load", "pass"),
        verdict(NEW, "radio", "repeatable", "not-applicable", reason="nothing to repeat"),
        verdict(loader, "openai_clip", "strict-load", "fixed", known={"clip-early-return": 1}),
        verdict(loader, "radio", "strict-load", "error", reason="no such module"),
        Loads(
            OLD,
            "openai_clip",
            [LoadedCase("a", 2.0, 0.5), LoadedCase("b", 0.5, 3e4), LoadedCase("c", 1.5), LoadedCase("d")],
        ),
        Loads(NEW, "openai_clip", [LoadedCase("a", 2.0, 0.0), LoadedCase("b", 0.5, float("inf"))]),
        Change(NEW, OLD, "openai_clip", 9, 4, ["pos_embed"], 71.5),
        Cause(NEW, [failure().fingerprint], "import timm  # </pre><script>"),
        Witness(OLD, "clip-early-return", "fails", True, "the model has (8, 3, 3, 3)", 12.5),
        Witness(NEW, "clip-early-return", "fixed", True),
        Witness(NEW, "dinov2-early-return", "fails", False, "again"),
        Footer(12.5, 1),
    ]
    return Results(records)


def many(targets: int = 38, families: int = 54, invariants: int = 29) -> Results:
    """A whole validation: verdicts of every kind but ``error``, no two rows quite alike, every fourth family changed."""
    names = [f"timm==1.0.{i}" for i in range(targets)]
    kinds = ("pass", "pass", "known", "not-applicable")
    must = {f"invariant-{i:02}": ["native", "patch-grow", "grid-shrink"] for i in range(invariants)}
    records = []
    for t, target in enumerate(names):
        records.append(header(target, invariants=must))
        for f in range(families):
            family = f"family_{f:02}"
            for i, invariant in enumerate(must):
                name = "fail" if (t, f, i) == (2, 3, 4) else kinds[(t * 7 + f * 3 + i * 5) % len(kinds)]
                more = {"known": {"clip-early-return": 4}} if name == "known" else {}
                more |= {"failures": [failure()]} if name == "fail" else {"worst": (t + 1) * (f + 1) * (i + 1) / 1e5}
                records.append(verdict(target, family, invariant, name, **more))
            records.append(
                Loads(target, family, [LoadedCase(str(n), 2.0 ** (n - 4), 10.0 ** (n - 6)) for n in range(9)])
            )
            if t and f % 4 == 0:
                records.append(Change(target, names[t - 1], family, 9, 4, ["pos_embed"], 71.5))
    return Results([*records, Footer(481.0, 1)])
