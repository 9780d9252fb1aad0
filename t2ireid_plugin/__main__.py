"""``python -m t2ireid_plugin``: the command line, as child processes start it."""

import os
import sys
import threading

from t2ireid_plugin.cli import main


def _end_with_parent() -> None:
    """Ends this process when its standard input closes, as it does when the parent dies in whatever way."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)  # as if killed with its parent: what that does next must not meet a run that is still saving


if __name__ == "__main__":
    if "T2IREID_END_WITH_PARENT" in os.environ:  # set by `ablation.runs`
        threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(main())
