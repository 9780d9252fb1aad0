"""Training and evaluation with FastReID: ``python tools/train_fastreid.py --config-file F [--eval-only] [--resume] …``.

FastReID's source must be on PYTHONPATH. The options are those of its own ``tools/train_net.py``, such as
``--num-gpus N``, with ``KEY VALUE …`` at the end.
"""

import sys

from t2ireid_plugin.errors import DependencyError

try:
    from t2ireid_plugin.integrations.fastreid import enable_compatibility

    enable_compatibility()  # at import: with --num-gpus N each process imports this file
    from t2ireid_plugin.integrations.fastreid.command import main
except DependencyError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)

if __name__ == "__main__":
    sys.exit(main())
