"""One run a folder: two that write the same files would leave a mixture of both."""

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
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of some network file systems


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Holds ``folder/.lock``, which the system lets go when the process ends in whatever way.

    The lock is the process's own: data workers that outlive a killed run for some seconds do not hold it.

    Raises:
        ConfigError: when another run holds it, with its process and machine.
        OSError: when the folder cannot be written to.
    """
    with open(folder / ".lock", "a+", encoding="utf-8") as stream:
        if fcntl is not None:
            try:
                fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                stream.seek(0)
                raise ConfigError(
                    f"data.save_dir: another run writes to '{folder}' ({stream.read().strip() or 'just started'}); "
                    "wait for its end, or set another folder"
                ) from error
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                logger.warning(
                    "'%s' cannot be locked (%s): take care that no other run writes there", folder, error.strerror
                )
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        stream.flush()
        yield
