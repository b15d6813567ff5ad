"""``python -m tests.fuzz [--minutes M] [--seed N] [--out FOLDER]``, or ``--again FOLDER`` for one finding."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import torch

from .feeding import feed
from .files import stored
from .session import Session
from .watch import LIMITS, Limits, Outcome, watched


def again(folder: Path, limits: Limits = LIMITS) -> Outcome:
    """Feed the file of a finding once more."""
    return watched(lambda: feed(*stored(folder)), limits)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=sys.modules[__package__].__doc__)
    parser.add_argument("--minutes", type=float, default=10, help="how long to look (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="where to begin (default 0)")
    parser.add_argument(
        "--out", type=Path, default=Path("results/fuzz"), help="where findings go (default results/fuzz)"
    )
    parser.add_argument("--again", type=Path, metavar="FOLDER", help="show what one finding does, and nothing else")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if asked.again:
        outcome = again(asked.again)
        print(f"{outcome.kind} {outcome.where}\n{outcome.text}")
        return int(outcome.is_finding)
    session = Session(asked.seed, asked.out)
    session.look(asked.minutes * 60)
    print(session.summary())
    return int(bool(session.findings))


if __name__ == "__main__":
    sys.exit(main())
