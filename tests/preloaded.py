"""Python's command line in a process of its own that has the packages loaded already, a fork of one that did just that.

Loading them takes six seconds, which was most of what such tests took. What a fresh process loads, and when, is
tests/test_startup.py's affair; the main job, torchrun and reloading a model are tested in fresh processes too.
"""

import gc
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
_SERVER = multiprocessing.get_context("forkserver")
MODELS = [f"transformers.models.{name}.modeling_{name}" for name in ("bert", "vit")]
_SERVER.set_forkserver_preload(["torchreid", *MODELS, "t2ireid_plugin.run"])


def _start_server():
    """Once; the hub's library looks when it is loaded whether it may ask the hub, which no command here needs."""
    with mock.patch.dict(os.environ, HF_HUB_OFFLINE="1"):
        forkserver.ensure_running()


class Preloaded:
    """A running `python words` (`script …`, `-c code …` or `-m module …`), the leader of its own process group."""

    def __init__(self, words, folder=REPOSITORY, **environment):
        self.words = [str(word) for word in words]
        self._printed = tempfile.TemporaryDirectory()
        environment = {**os.environ, **{name: str(value) for name, value in environment.items()}}
        arguments = self.words, str(folder), environment, self._files(), multiprocessing.get_start_method()
        self.process = _SERVER.Process(target=_be_python, args=arguments)
        _start_server()
        self.process.start()
        self.pid = self.process.pid

    def _files(self):
        return [os.path.join(self._printed.name, name) for name in ("stdout", "stderr")]

    def poll(self):
        """The exit status, or None while it runs."""
        return self.process.exitcode

    def kill(self):
        """Ends it now, if it has not ended."""
        self.process.kill()
        self.process.join()

    def finish(self, timeout=600):
        """Its status and what it printed, as `subprocess.run` has them."""
        self.process.join(timeout)
        late = self.process.is_alive()
        if late:
            self.kill()
        printed = [Path(file).read_text(encoding="utf-8") for file in self._files()]
        self._printed.cleanup()
        assert not late, (self.words, printed)
        return subprocess.CompletedProcess(self.words, self.process.exitcode, *printed)


class Child(Preloaded):
    """As `subprocess.Popen` of this interpreter with all output in the file `stdout`, for code that starts such."""

    def __init__(self, command, env, stdout, **_):
        super().__init__(command[1:], os.getcwd(), **env)
        self._stdout = stdout

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def wait(self):
        done = self.finish()
        self._stdout.write((done.stdout + done.stderr).encode())
        return done.returncode

    def terminate(self):
        self.process.terminate()


def _be_python(words, folder, environment, files, start_method):
    gc.freeze()  # what the server has loaded
    os.setsid()
    multiprocessing.set_start_method(start_method, force=True)  # of its own children, as it is by default
    for stream, file in zip((sys.stdout, sys.stderr), files, strict=True):
        with open(file, "wb") as opened:
            os.dup2(opened.fileno(), stream.fileno())
        stream.reconfigure(encoding="utf-8", line_buffering=True)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    kind, *rest = words
    if kind == "-c":
        code, *arguments = rest
        sys.argv = ["-c", *arguments]
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        module, *arguments = rest
        sys.argv = [module, *arguments]
        runpy.run_module(module, run_name="__main__")
    else:
        sys.argv = words
        sys.path.insert(0, os.path.dirname(os.path.abspath(kind)))
        runpy.run_path(kind, run_name="__main__")


def run_python(words, folder=REPOSITORY, status=0, **environment):
    """`Preloaded`, finished; it must have ended with `status`, or with any if that is None."""
    done = Preloaded(words, folder, **environment).finish()
    assert status is None or done.returncode == status, done.stdout[-2000:] + done.stderr[-4000:]
    return done


MOUNT = """
import ctypes, subprocess, sys
from t2ireid_plugin.cli import main
def mount(*words):
    subprocess.run(["mount", *words], check=True)
assert ctypes.CDLL(None).unshare(0x00020000) == 0  # CLONE_NEWNS
mount("--make-rprivate", "/")
"""


def skip_without_mounting():
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")


def run_mounting(code, *arguments, status=0):
    """Python code with `mount(*words)`, which nobody else sees, and `main`; skips the test where it is not allowed."""
    skip_without_mounting()
    return run_python(["-c", MOUNT + code, *arguments], status=status)


def start_group(words, processes, folder=REPOSITORY):
    """The running processes of `torchrun --nproc_per_node processes words`, without torchrun itself."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    shared = {
        "TORCHELASTIC_RUN_ID": "preloaded", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
        "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes,
    }  # fmt: skip
    return [Preloaded(words, folder, RANK=n, LOCAL_RANK=n, **shared) for n in range(processes)]


def run_group(words, processes, folder=REPOSITORY):
    """`start_group`, finished: the first status that is not 0, and what all printed; one process is started alone."""
    if processes == 1:
        return run_python(words, folder, status=None)
    done = [one.finish() for one in start_group(words, processes, folder)]
    status = next((one.returncode for one in done if one.returncode), 0)
    out, err = ("".join(getattr(one, name) for one in done) for name in ("stdout", "stderr"))
    return subprocess.CompletedProcess(words, status, out, err)
