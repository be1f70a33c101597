"""minitok: papers about tokens, each as one short module, one notebook, one test file and one measured verdict."""

__version__ = "0.1.0"
