"""The key ``config.teacher_cache``: how many bytes a teacher cache may take."""

import re

from xtc_jax.errors import UserError

AUTO, OFF = "auto", "off"
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_budget(text: str) -> int | None:
    """Bytes of ``config.teacher_cache``: 0 for ``off``, None for ``auto``, else a size such as ``2GB`` (10^9 bytes each).

    >>> parse_budget("auto"), parse_budget("off"), parse_budget("1.5GB"), parse_budget("200 MB")
    (None, 0, 1500000000, 200000000)

    Raises:
      UserError: no size.
    """
    if text in (AUTO, OFF):
        return None if text == AUTO else 0
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B)", text.strip(), re.IGNORECASE)
    size = float(match[1]) * _UNITS[match[2].upper()] if match else 0.0
    if size < 1:
        raise UserError(f"config.teacher_cache={text!r} is no size; use auto, off or a size such as 2GB or 500MB")
    return int(size)
