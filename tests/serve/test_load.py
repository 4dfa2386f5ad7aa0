"""A server as it is run: another process, real sockets, many clients, and SIGTERM in the middle."""

import http.client
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import toy

from xtc_jax.inference.predictor import load_predictor, predict

pytestmark = [pytest.mark.serve, pytest.mark.slow]
CLIENTS, REQUESTS, ALONE, PARTS = 32, 10_000, 1000, 4
GROWTH = 10e6
"""Bytes that are no growth over the second half; 2 kB a request would be more."""
MODEL = os.environ.get("XTC_SERVED", "")
"""Another packed directory to measure with; the toy's otherwise."""
EDGE = 0.02
"""Probabilities may differ by a rounding of an activation that flips."""


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    return Path(MODEL) if MODEL else toy.finished_run(tmp_path_factory.mktemp) / "work" / "packed"


@pytest.fixture(scope="module")
def expected(packed) -> list[tuple[str, float]]:
    """Texts of 3 to 36 words, and the probability of the last class."""
    rng = np.random.default_rng(0)
    words = [*toy.GOOD, *toy.BAD, *toy.NOUNS, *toy.OTHER[:12]]
    texts = [" ".join(rng.choice(words, size)) for size in rng.integers(3, 37, 200)]
    return [
        (text, [*answer.probabilities.values()][-1]) for text, answer in zip(texts, predict_all(packed, texts), strict=True)
    ]


def predict_all(packed, texts):
    return predict(load_predictor(packed), [(text,) for text in texts])


@contextmanager
def server(packed, *options):
    """A server process and its port; killed at the end if it still runs."""
    command = [sys.executable, "-m", "xtc_jax.cli", "serve", str(packed), "--port=0", *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("XLA_FLAGS", None)  # programs are as fast, and devices as few, as users have them
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        lines = iter(process.stderr.readline, "")
        found = next(match for line in lines if (match := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line)))
        yield process, int(found[1])
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


class Client:
    """One connection, kept open."""

    def __init__(self, port):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, text):
        """The status, the probability of the last class, and the seconds that it took."""
        began = time.perf_counter()
        self.connection.request("POST", "/predict", json.dumps({"inputs": text}), {"content-type": "application/json"})
        answer = self.connection.getresponse()
        content = json.loads(answer.read())
        took = time.perf_counter() - began
        return answer.status, [*content["predictions"][0]["probabilities"].values()][-1], took

    def close(self):
        """End the connection."""
        self.connection.close()


def load(port, expected, clients, requests):
    """Seconds of each request, requests a second; every answer is compared."""
    seconds, wrong = [], []

    def work(first):
        client = Client(port)
        for i in range(first, requests, clients):
            text, probability = expected[i % len(expected)]
            status, found, took = client.ask(text)
            seconds.append(took)
            if status != 200 or abs(found - probability) > EDGE:
                wrong.append((status, found, probability))
        client.close()

    threads = [threading.Thread(target=work, args=(first,)) for first in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(seconds) == requests
    return seconds, requests / (time.perf_counter() - began)


def resident(process) -> int:
    """Bytes of memory that a process holds."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return 1024 * int(re.search(r"VmRSS:\s+(\d+) kB", status)[1])


@dataclass(frozen=True)
class Load:
    """One client alone, then all: seconds of each request, requests a second, and bytes resident after each part."""

    alone: list[float]
    rate_alone: float
    seconds: list[float]
    rates: list[float]
    memory: list[int]


def exported(packed, folder) -> Path:
    """The ONNX directory of a packed one."""
    from xtc_jax.deploy.onnx_directory import export_onnx

    export_onnx(packed, folder / "onnx", "", lambda line: None)
    return folder / "onnx"


@pytest.fixture(scope="module", params=["jax", pytest.param("onnx", marks=pytest.mark.onnx)])
def loaded(request, packed, expected, tmp_path_factory) -> Load:
    served = packed if request.param == "jax" else exported(packed, tmp_path_factory.mktemp("exported"))
    with server(served, f"--runtime={request.param}") as (process, port):
        load(port, expected, CLIENTS, 500)  # connections, threads and caches that every server ends up with
        alone, rate_alone = load(port, expected, 1, ALONE)
        memory, seconds, rates = [resident(process)], [], []
        for _ in range(PARTS):
            took, rate = load(port, expected, CLIENTS, REQUESTS // PARTS)
            memory.append(resident(process))
            seconds += took
            rates.append(rate)
    return Load(alone, rate_alone, seconds, rates, memory)


def test_ten_thousand_requests_of_32_clients_are_answered_right_in_steady_memory(loaded):
    """``load`` compares every answer. The first half fills caches of threads: 22 MB measured, then nothing."""
    print(f"resident {', '.join(f'{size / 1e6:.1f}' for size in loaded.memory)} MB")
    assert len(loaded.seconds) == REQUESTS
    assert loaded.memory[-1] - loaded.memory[PARTS // 2] < GROWTH


@pytest.mark.quiet
def test_32_clients_are_served_as_fast_as_one_and_none_waits_long(loaded):
    median, tail = statistics.median(loaded.alone), float(np.quantile(loaded.seconds, 0.99))
    print(f"alone: median {1e3 * median:.2f} ms, {loaded.rate_alone:.0f} requests/s")
    print(f"{CLIENTS} clients: {min(loaded.rates):.0f} requests/s, median {1e3 * statistics.median(loaded.seconds):.1f} ms")
    print(f"p99 {1e3 * tail:.1f} ms = {tail / median:.1f} times it alone")
    assert statistics.harmonic_mean(loaded.rates) >= loaded.rate_alone
    assert tail <= 40 * median


def test_after_sigterm_everything_that_was_accepted_is_answered_and_nothing_else_is_accepted(packed, expected):
    """A request whose connection is closed before a byte of an answer was not accepted; half an answer is an error."""
    outcomes, go = Counter(), threading.Event()

    def work(number):
        client = Client(port)
        for i in range(10_000):
            text, probability = expected[(number + i) % len(expected)]
            try:
                status, found, _ = client.ask(text)
            except (http.client.RemoteDisconnected, ConnectionError):
                outcomes["closed"] += 1
                client.close()
                return
            outcomes[status if abs(found - probability) <= EDGE else "wrong"] += 1
            if outcomes[200] > 300:
                go.set()

    with server(packed) as (process, port):
        threads = [threading.Thread(target=work, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        assert go.wait(60)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        assert process.wait(30) == 0
        answered, accepted = map(int, re.search(r"answered (\d+) of (\d+) requests", process.stderr.read()).groups())
        with closing(Client(port)) as late, pytest.raises(ConnectionRefusedError):
            late.ask("the lamp")
    assert set(outcomes) == {200, "closed"}
    assert outcomes["closed"] == CLIENTS
    assert answered == accepted == outcomes[200]
