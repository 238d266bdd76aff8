"""Start the program ``elmix``; Ctrl-C ends it in one line while its commands are imported, too."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hf_elmix.interrupt import end_at_ctrl_c

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command of `hf_elmix.cli.main`."""
    end_at_ctrl_c("elmix")
    from hf_elmix.cli.main import main as run

    return run(argv)


if __name__ == "__main__":
    sys.exit(main())
