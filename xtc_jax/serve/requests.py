"""The body of a request: read within its limits, or refused with a status and a sentence."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

_JSON_ESCAPE = 12
"""Bytes that a character may take in JSON: two escapes of six, outside the basic plane."""
_ROOM = 4096
EXPECTED = 'send JSON such as {"inputs": ["a text"]}'
PAIR = 'send JSON such as {"inputs": [["first", "second"]]}'


@dataclass(frozen=True)
class Limits:
    """What a request may ask for.

    Attributes:
      inputs: of a request.
      characters: of a text.
      waiting: inputs of all requests that may wait for the model.
    """

    inputs: int = 64
    characters: int = 10_000
    waiting: int = 1024

    def body(self, texts: int) -> int:
        """Bytes of the largest body that keeps to the others."""
        return _ROOM + self.inputs * texts * (self.characters * _JSON_ESCAPE + 8)


class RefusedError(Exception):
    """A request that is not answered: the status, and a sentence that says why."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


async def read_body(chunks: AsyncIterator[bytes], announced: str | None, most: int) -> bytes:
    """The whole body; one that is too large is refused as soon as that is known.

    Raises:
      RefusedError: 413.
    """
    refused = RefusedError(413, f"The body is larger than {most} bytes; send fewer or shorter texts.")
    if announced and announced.isdecimal() and int(announced) > most:
        raise refused
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > most:
            raise refused
    return bytes(body)


def parse_inputs(body: bytes, texts: int, limits: Limits) -> list[tuple[str, ...]]:
    """The inputs of a body, each a tuple of one text, or of the two of a pair.

    >>> parse_inputs(b'{"inputs": "a text"}', 1, Limits())
    [('a text',)]
    >>> parse_inputs(b'{"inputs": [["one", "two"]]}', 2, Limits())
    [('one', 'two')]

    Raises:
      RefusedError: 400 for what is no JSON in UTF-8, 422 for other inputs than the model takes, 413 for more than the limits.
    """
    inputs = _inputs_of(body, EXPECTED if texts == 1 else PAIR)
    listed = inputs if isinstance(inputs, list) else [inputs]
    if not listed:
        raise RefusedError(422, "There is no input; give at least one text.")
    if len(listed) > limits.inputs:
        raise RefusedError(413, f"There are {len(listed)} inputs; a request may have {limits.inputs}.")
    return [_input(value, f"Input {i + 1}", texts, limits.characters) for i, value in enumerate(listed)]


def _inputs_of(body: bytes, expected: str) -> Any:
    if not body.strip():
        raise RefusedError(400, f"The body is empty; {expected}.")
    try:
        raw = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise RefusedError(400, "The body is not UTF-8.") from None
    except (ValueError, RecursionError) as error:
        reason = f" ({error})" if isinstance(error, json.JSONDecodeError) else ""
        raise RefusedError(400, f"The body is not JSON{reason}; {expected}.") from None
    if not isinstance(raw, dict) or "inputs" not in raw:
        raise RefusedError(422, f"The key inputs is missing; {expected}.")
    if unknown := sorted(raw.keys() - {"inputs"}):
        raise RefusedError(422, f"The key {unknown[0][:40]!r} is not known; {expected}.")
    return raw["inputs"]


def _input(value: Any, where: str, texts: int, characters: int) -> tuple[str, ...]:
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str) for part in parts):
        raise RefusedError(422, f"{where} is no text; {EXPECTED if texts == 1 else PAIR}.")
    if len(parts) != texts:
        raise RefusedError(
            422, f"{where} has {len(parts)} text(s), and this model takes {texts}; {EXPECTED if texts == 1 else PAIR}."
        )
    for part in parts:
        if not part.strip():
            raise RefusedError(422, f"{where} is empty.")
        if len(part) > characters:
            raise RefusedError(413, f"{where} has {len(part)} characters; a text may have {characters}.")
        try:
            part.encode()
        except UnicodeEncodeError:
            raise RefusedError(422, f"{where} holds half of a surrogate pair, which is no character.") from None
    return tuple(parts)
