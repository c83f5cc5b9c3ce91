"""Files that are replaced whole or not at all, and files and folders for their owner alone."""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from warren_shared.errors import ConfigError

PRIVATE: Final = 0o600
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
# Tightened, these would shut everybody else out of the machine.
_SYSTEM: Final = frozenset(
    {"/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/media", "/mnt", "/opt", "/proc"}
    | {"/run", "/sbin", "/srv", "/sys", "/usr", "/usr/local", "/var", "/var/lib"}
    | {"/tmp", "/var/tmp", "/dev/shm"}  # noqa: S108
)


@contextmanager
def replacing(
    path: Path, temporary: Path | None = None, *, mode: int | None = None
) -> Iterator[Path]:
    """A path to write to; what is there takes the place of ``path`` when the block ends.

    If the block fails nothing is left of it: a half-written file on a disk that is full would keep
    it full. With ``mode`` (such as ``PRIVATE``) the file has it from the beginning, whatever the
    umask; else it gets what the umask leaves.
    """
    temporary = temporary or path.with_name(f"{path.name}.tmp")
    try:
        if mode is not None:
            _create(temporary, mode)
        yield temporary
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def private_folder(folder: Path) -> Path:
    """Make ``folder`` (and its parents), or tighten it, so that no other user may look into it.

    A volume that somebody else mounted for us is taken as it is: in a container its owner and mode
    are the administrator's. One that is ours is tightened, a tmpfs that begins as 1777 included.

    Raises:
        OSError: it cannot be made, or others may look into it and it is not ours to tighten.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))
    for missing in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
        with suppress(FileExistsError):  # somebody else has just made it
            missing.mkdir(mode=0o700)
            missing.chmod(0o700)  # of a umask that takes it from the owner, too
    found = folder.stat()
    if not found.st_mode & _OTHERS:
        return folder
    is_ours = found.st_uid == os.geteuid()
    is_volume = os.path.ismount(folder)
    is_sticky = bool(found.st_mode & stat.S_ISVTX) and not is_volume
    is_shared = is_sticky or str(folder.resolve()) in _SYSTEM
    if is_ours and not is_shared:
        with suppress(OSError):  # where files have no modes the mount has, for all of them
            folder.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)
    elif is_shared or not is_volume:
        whose = "everybody shares it" if is_shared else "it belongs to another user"
        said = f"{whose}, and others may look into it: name a folder of your own"
        raise PermissionError(errno.EPERM, said, str(folder))
    return folder


def flush(descriptor: int) -> None:
    """Have what was written to a file survive a power cut.

    macOS has no fdatasync, and its fsync leaves data in the drive's own memory.
    """
    if (full := getattr(fcntl, "F_FULLFSYNC", None)) is not None:
        try:
            fcntl.fcntl(descriptor, full)
        except OSError:  # a file system of another machine has no such thing
            os.fsync(descriptor)
        return
    getattr(os, "fdatasync", os.fsync)(descriptor)


def flush_folder(folder: Path) -> None:
    """Have what was created, renamed or deleted in ``folder`` survive a power cut."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _create(path: Path, mode: int) -> None:
    # A file that a crash left may have another mode, and its content is not wanted.
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    try:
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def writable(folder: Path, flag: str, *, private: bool = True) -> Path:
    """``folder``, made if need be; ConfigError in the name of ``flag`` if it takes no files.

    ``private``: no other user may look into it, whatever the umask and its mode so far.
    """
    try:
        if private:
            private_folder(folder)
        else:
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        said = error.strerror or str(error)
        raise ConfigError(f"{flag} {folder} cannot be written: {said}") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{flag} {folder} cannot be written: permission denied")
    return folder


def write_private(path: Path, text: str, mode: int = PRIVATE) -> None:
    """Replace ``path`` in one step by a file of ``mode``, unless it says ``text`` already.

    Never by opening it and changing its mode afterwards: between the two anybody could read a
    password, and a crash would leave half a file. What is already said needs no room on a disk
    that is full.
    """
    private_folder(path.parent)
    if _says(path, text):
        path.chmod(mode)
        return
    # Always the same name: what a kill leaves here is replaced, and no second copy of a secret.
    temporary = path.with_name(f".{path.name}.tmp")
    with replacing(path, temporary, mode=PRIVATE), temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
    flush_folder(path.parent)


def _says(path: Path, text: str) -> bool:
    try:
        return path.read_text(encoding="utf-8") == text
    except (FileNotFoundError, UnicodeDecodeError):
        return False
