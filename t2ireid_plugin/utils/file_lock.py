"""Lock on a folder, so that two runs never write the same files."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from t2ireid_plugin.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # by some network file systems


@contextlib.contextmanager
def lock_folder(folder: Path, name: str = "data.save_dir") -> Iterator[None]:
    """Holds a lock on ``folder/.lock``, which the system releases when the process ends, even if it is killed.

    Child processes do not inherit the lock: data workers that outlive a killed run do not hold it.

    Args:
        folder: an existing folder.
        name: of the setting or option that chooses it, for the message.

    Raises:
        ConfigError: when another run holds the lock, with its process and host.
        OSError: when the folder is not writable.
    """
    with open(folder / ".lock", "a+", encoding="utf-8") as stream:
        try:
            if fcntl is not None:
                fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            stream.seek(0)
            raise ConfigError(
                f"{name}: another run is writing to '{folder}' ({stream.read().strip() or 'just started'}); "
                "wait until it ends, or set another folder"
            ) from error
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            logger.warning(
                "'%s' cannot be locked (%s); make sure that no other run writes there", folder, error.strerror
            )
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        stream.flush()
        yield
