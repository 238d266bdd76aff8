"""The program ``elmix``: everything about studies and trained models that does not depend on the data."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hf_elmix.cli import (
    calibration,
    cohorts,
    compare,
    escape,
    gradients,
    images,
    push,
    report,
    reviews,
    status,
    tables,
)
from hf_elmix.cli.base import Commands, run_program

__all__ = ["COMMANDS", "main"]

COMMANDS: Commands = {
    "compare": compare.COMMAND,
    "report": report.COMMAND,
    "status": status.COMMAND,
    "push": push.COMMAND,
    "study": {"tables": tables.COMMAND, "reviews": reviews.COMMAND, "images": images.COMMAND},
    "gradients": gradients.COMMAND,
    "cohorts": cohorts.COMMAND,
    "calibration": calibration.COMMAND,
    "escape": escape.COMMAND,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake ends in one line on standard error and exit code 2."""
    about = "Compare losses and training arguments, report studies, and look inside trained models."
    return run_program("elmix", about, COMMANDS, argv)


if __name__ == "__main__":
    sys.exit(main())
