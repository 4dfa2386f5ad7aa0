"""Bodies that are answered, and those that are refused with a status and a sentence."""

import asyncio
import json

import pytest

from xtc_jax.serve.requests import Limits, RefusedError, parse_inputs, read_body

LIMITS = Limits(inputs=3, characters=10)


@pytest.mark.parametrize(
    ("inputs", "texts", "expected"),
    [
        ("one", 1, [("one",)]),
        (["one", "two"], 1, [("one",), ("two",)]),
        ([["one", "two"]], 2, [("one", "two")]),
        (["ünï 🙂"], 1, [("ünï 🙂",)]),
    ],
)
def test_one_text_a_list_and_pairs_are_read(inputs, texts, expected):
    assert parse_inputs(json.dumps({"inputs": inputs}).encode(), texts, LIMITS) == expected


@pytest.mark.parametrize(
    ("body", "texts", "status", "sentence"),
    [
        (b"", 1, 400, "The body is empty; send JSON such as"),
        (b"  ", 1, 400, "The body is empty; send JSON such as"),
        (b'{"inputs": "\xff"}', 1, 400, "The body is not UTF-8."),
        (b'{"inputs": ', 1, 400, "The body is not JSON (Expecting value"),
        (b"[" * 100_000, 1, 400, "The body is not JSON"),
        (b'["a"]', 1, 422, "The key inputs is missing"),
        (b'{"text": "a"}', 1, 422, "The key inputs is missing"),
        (b'{"inputs": "a", "top": 1}', 1, 422, "The key 'top' is not known"),
        (b'{"inputs": []}', 1, 422, "There is no input"),
        (b'{"inputs": [""]}', 1, 422, "Input 1 is empty."),
        (b'{"inputs": ["a", " \\n"]}', 1, 422, "Input 2 is empty."),
        (b'{"inputs": [7]}', 1, 422, "Input 1 is no text"),
        (b'{"inputs": null}', 1, 422, "Input 1 is no text"),
        (b'{"inputs": [["a", "b"]]}', 1, 422, "Input 1 has 2 text(s), and this model takes 1"),
        (b'{"inputs": ["a", "b"]}', 2, 422, "Input 1 has 1 text(s), and this model takes 2"),
        (b'{"inputs": "\\ud800"}', 1, 422, "Input 1 holds half of a surrogate pair"),
        (b'{"inputs": ["a", "b", "c", "d"]}', 1, 413, "There are 4 inputs; a request may have 3."),
        (b'{"inputs": "aaaaaaaaaaa"}', 1, 413, "Input 1 has 11 characters; a text may have 10."),
    ],
)
def test_what_is_no_request_is_refused_with_a_sentence(body, texts, status, sentence):
    with pytest.raises(RefusedError) as refused:
        parse_inputs(body, texts, LIMITS)
    assert refused.value.status == status
    assert refused.value.sentence.startswith(sentence)
    assert "\n" not in refused.value.sentence


def test_the_largest_request_that_keeps_to_the_limits_fits_the_body():
    body = json.dumps({"inputs": ["🙂" * 10] * 3}).encode()
    assert len(body) > 3 * 10 * 12
    assert len(body) <= LIMITS.body(1)


def read(parts, announced, most):
    taken = []

    async def chunks():
        for part in parts:
            taken.append(part)
            yield part

    return asyncio.run(read_body(chunks(), announced, most)), taken


def test_a_body_is_read_in_parts():
    assert read([b"ab", b"", b"cd"], None, 4)[0] == b"abcd"


@pytest.mark.parametrize("announced", ["5", None])
def test_a_body_that_is_too_large_is_refused_by_what_it_announces_or_when_it_is_so(announced):
    with pytest.raises(RefusedError, match="larger than 4 bytes") as refused:
        read([b"abc", b"de"], announced, 4)
    assert refused.value.status == 413
