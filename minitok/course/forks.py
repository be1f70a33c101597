"""Kernels forked from one warm process, which has imported what lessons have in common (`warm`).

A builder or a worker of the tests starts the process with its first kernel, and talks to it through a pipe: an
order goes in, the number of a new process comes out. It ends when the pipe does, and takes its kernels with it.
"""

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from typing import Any

import psutil
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.manager import KernelManager
from jupyter_client.provisioning import LocalProvisioner


def possible() -> bool:
    """Whether this system forks safely: macOS has `fork`, but its own libraries do not survive it."""
    return hasattr(os, "fork") and sys.platform != "darwin"


class Server:
    """The warm process; it starts when the first kernel is asked for, and again if something ended it.

    `warm=False`: it imports only what every kernel needs, for tests of the process itself.
    """

    def __init__(self, warm: bool = True) -> None:
        self.process: subprocess.Popen[str] | None = None
        self._warm = warm
        self._lock = threading.Lock()

    def fork(self, order: dict[str, Any]) -> int:
        """The number of a new process that is becoming the kernel of an order; `RuntimeError` when there is none."""
        with self._lock:
            for _ in range(2):
                answer = self._asked(json.dumps(order))
                if answer:
                    return int(answer)
            self.close()
            raise RuntimeError("no kernel can be forked; `--fresh-kernels` starts each of them anew")

    def close(self) -> None:
        """Ends the process and all kernels that still run."""
        if self.process is None:
            return
        assert self.process.stdin
        assert self.process.stdout
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.process = None

    def _asked(self, order: str) -> str:
        if self.process is not None and self.process.poll() is not None:
            self.close()
        if self.process is None:
            self.process = _started(self._warm)
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write(order + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            self.process.wait()
            return ""
        answer = self.process.stdout.readline()
        if not answer:
            self.process.wait()
        return answer


def _started(warm: bool) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    command = [sys.executable, "-m", "minitok.course.warm", *([] if warm else ["cold"])]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, start_new_session=True, **pipes)


SERVER = Server()
atexit.register(SERVER.close)


class Child:
    """A process that is not our own child: what jupyter_client asks of one that it started itself."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._process = psutil.Process(pid)

    def poll(self) -> int | None:
        """None while it runs."""
        try:
            return 1 if self._process.status() == psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return 1

    def wait(self) -> int:
        """Returns when it has ended."""
        while (status := self.poll()) is None:
            time.sleep(0.02)
        return status

    def send_signal(self, number: int) -> None:
        """Raises `ProcessLookupError` when it has ended."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it at once."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Asks it to end."""
        self.send_signal(signal.SIGTERM)


class Forked(LocalProvisioner):
    """Brings a kernel to life by forking it, where jupyter_client would start a new interpreter."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Has the kernel forked that the command would start, in the same folder and environment."""
        folder = str(kwargs.get("cwd") or os.getcwd())
        arguments = cmd[cmd.index("ipykernel_launcher") + 1 :]
        order = {"arguments": arguments, "folder": folder, "environment": kwargs["env"], "quiet": "stderr" in kwargs}
        self.process = Child(SERVER.fork(order))
        self.pid = self.pgid = self.process.pid
        self.cwd = folder
        return self.connection_info


def forked(manager: KernelManager) -> KernelManager:
    """The manager, set so that it forks its kernel."""
    identity = manager.kernel_id or str(uuid.uuid4())
    manager.provisioner = Forked(kernel_id=identity, kernel_spec=manager.kernel_spec, parent=manager)
    return manager
