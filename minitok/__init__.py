"""minitok: papers about tokens, each as one short module, one notebook, one test file and one measured verdict."""

import os as _os
import sys as _sys

__version__ = "0.1.0"

if (
    "torch" not in _sys.modules
):  # threads that wait must sleep: where two programs run, they else take turns in spinning
    _os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
