"""How much of each tolerance the tests use: ``PYTHONPATH=tests pytest -n 0 -p spreads tests/...``.

Every call of ``np.testing.assert_allclose`` is measured as ``max(|a - b| / (atol + rtol |b|))``, 1 being the whole tolerance:
the largest of each line of the tests is printed at the end, the least used first. A tolerance is the measured spread
times twenty-five at most: spreads differ between processors and versions of XLA, but not by orders of magnitude.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parent
SHARES = pytest.StashKey[dict[str, float]]()


def used(actual, desired, rtol: float, atol: float) -> float:
    """The largest share of the tolerance that the difference takes; 0 where both are equal."""
    a, b = np.broadcast_arrays(np.asarray(actual, np.float64), np.asarray(desired, np.float64))
    differ = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    with np.errstate(invalid="ignore"):
        return float(np.max(np.abs(a - b)[differ] / (atol + rtol * np.abs(b))[differ], initial=0.0))


def caller() -> str:
    """File and line of the test that is running."""
    frame = sys._getframe(2)
    while TESTS not in Path(frame.f_code.co_filename).parents and frame.f_back is not None:
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).relative_to(TESTS)}:{frame.f_lineno}"


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    """Measure each call while the tests run, then assert as before."""
    shares, original = session.config.stash.setdefault(SHARES, {}), np.testing.assert_allclose

    def measured(actual, desired, rtol=1e-7, atol=0, **options) -> None:
        site, share = caller(), used(actual, desired, rtol, atol)
        shares[site] = max(shares.get(site, 0.0), share)
        original(actual, desired, rtol=rtol, atol=atol, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np.testing, "assert_allclose", measured)
        return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One line a call, the loosest first."""
    terminalreporter.section("share of each tolerance that was used")
    for site, share in sorted(config.stash.get(SHARES, {}).items(), key=lambda item: item[1]):
        terminalreporter.write_line(f"{share:9.2g}  {site}")
