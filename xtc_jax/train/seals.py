"""Digests of the files of a checkpoint: the proof that it is complete, and still what was written.

Orbax compresses arrays without a checksum: three of four bytes flipped in an array's file came back as wrong numbers and no
error (Orbax 0.12.8). So a checkpoint gets ``SHA256SUMS`` as its last file, in the form that ``sha256sum --check`` reads.
"""

import hashlib
import os
from pathlib import Path

SEAL = "SHA256SUMS"


def seal(directory: Path) -> None:
    """Write the digests of all files below ``directory``, at once: a seal that exists is whole."""
    lines = [f"{digest}  {name}\n" for name, digest in _digests(directory).items()]
    scratch = directory / f"{SEAL}.tmp"
    with scratch.open("w") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, directory / SEAL)


def damage(directory: Path) -> str:
    """What is wrong with a sealed directory: the first file that is missing, changed or not in the seal; "" if nothing is."""
    sealed = {}
    for line in (directory / SEAL).read_text(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        sealed[name] = digest
    for name in sealed:
        if not (directory / name).is_file():
            return f"{name} is missing"
    found = _digests(directory)
    for name, digest in found.items():
        if name not in sealed:
            return f"{name} is not in {SEAL}"
        if sealed[name] != digest:
            return f"{name} has changed since it was written"
    return ""


def _digests(directory: Path) -> dict[str, str]:
    """SHA-256 of every file but the seal, by relative path, sorted."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / SEAL)
    digests = {}
    for path in files:
        with path.open("rb") as file:
            digests[path.relative_to(directory).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
