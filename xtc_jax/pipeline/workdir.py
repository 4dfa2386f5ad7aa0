"""Records of a work directory: a file that exists is complete, and a directory with ``DONE`` is finished."""

import json
import os
from pathlib import Path
from typing import Any

Result = dict[str, Any]


def finished(directory: Path) -> Result | None:
    """The result of a finished stage, or None."""
    file = directory / "DONE"
    return json.loads(file.read_text())["result"] if file.exists() else None


def write_done(directory: Path, config: str, result: Result) -> Result:
    """Record that a directory is finished, with the hash of the config it was made with."""
    write_json(directory / "DONE", {"config": config, "result": result})
    return result


def write_json(path: Path, value: Any) -> None:
    """Write at once: a file that exists is complete."""
    scratch = path.with_name(path.name + ".tmp")
    scratch.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(scratch, path)


def make_directory(path: Path) -> None:
    """Make a directory with its parents; one that exists is left as it is."""
    path.mkdir(parents=True, exist_ok=True)
