"""Generated inputs to every kind of public call: a finite answer, or an error that says what to do.

Each input is a kind and a seed. A call may answer, with finite numbers that obey the laws stated
here, or refuse with a ValueError or TypeError whose message says what was expected. A failure is
any other exception, an answer that is not finite or breaks a law, more than 10 CPU seconds, a
change of the caller's arrays, or a change of torch's, NumPy's or Python's global random state.

    python benchmarks/fuzz.py 0 20000            # inputs 0 to 19,999, all kinds in turn
    python benchmarks/fuzz.py 0 500 forecasts    # the inputs of one kind
"""

import random
import re
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from fuzz_calls import densities, diagnostics, estimators, inference, series
from fuzz_calls.source import Source

SAYS_WHAT = re.compile(
    r"[Ee]xpected|must be|should be|required|only supports|does not contain|Found (input|array)|"
    r"contains NaN|contains infinity|too large for dtype|not supported|needs at least|unknown|"
    r"Unknown|could not convert string|cannot be used to seed|[Ss]eed must be|array of shape"
)


Kind = Callable[[Source], list[Any]]
KINDS: dict[Kind, int] = (
    inference.KINDS | estimators.KINDS | series.KINDS | densities.KINDS | diagnostics.KINDS
)
"""Of a hundred inputs, how many are of each kind; those that take long are few."""
ORDER = [kind for kind, n in KINDS.items() for _ in range(n)]
random.Random(0).shuffle(ORDER)


def random_states() -> list[Any]:
    """The global random states that no call may change."""
    return [torch.get_rng_state(), np.random.get_state()[1], random.getstate()[1]]  # type: ignore[index]


def equal(a: Any, b: Any) -> bool:
    """Whether two arrays are the same to the bit, mask and dtype included."""
    if isinstance(a, np.ma.MaskedArray):
        return np.array_equal(a.mask, b.mask) and equal(a.data, b.data)
    x, y = np.asarray(a), np.asarray(b)
    if x.dtype == object or x.shape != y.shape:
        return repr(a) == repr(b)
    return x.dtype == y.dtype and x.tobytes() == y.tobytes()


class Hang(BaseException):
    """An input that takes longer than anyone waits."""


@contextmanager
def limited(seconds: float) -> Any:
    """Interrupts what takes too many CPU seconds."""

    def stop(*_: Any) -> None:
        raise Hang(f"more than {seconds:g} CPU seconds")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def outcome(kind: Kind, seed: int) -> str:
    """What a generated call comes to, in a word; raises what nobody should see."""
    source = Source(seed)
    torch.manual_seed(seed)
    before = random_states()
    result, answers = "answered", []
    with warnings.catch_warnings(), limited(10.0):
        warnings.simplefilter("ignore")
        try:
            answers = kind(source)
        except (ValueError, TypeError) as reason:
            if not SAYS_WHAT.search(str(reason)):
                raise
            result = "refused"
    assert all(equal(*pair) for pair in zip(before, random_states(), strict=True)), "random state"
    assert all(equal(*pair) for pair in source.made), "the caller's arrays changed"
    for i, value in enumerate(answers):
        value = value.detach() if isinstance(value, torch.Tensor) else value
        numbers = np.asarray(value, dtype=np.float64)
        assert np.isfinite(numbers).all(), f"not finite: answer {i}, {numbers.ravel()[:5]}"
    return result


def main() -> None:
    """Prints each failure with its kind and seed, and a table of all calls."""
    first, last, *names = sys.argv[1:]
    chosen = [kind for kind in KINDS if kind.__name__ in names]
    found: Counter[tuple[str, str]] = Counter()
    seconds: Counter[str] = Counter()
    for seed in range(int(first), int(last)):
        kind = chosen[seed % len(chosen)] if chosen else ORDER[seed % len(ORDER)]
        began = time.process_time()
        try:
            result = outcome(kind, seed)
        except KeyboardInterrupt:
            break
        except BaseException as reason:
            result = "failed"
            line = str(reason).strip().split("\n")[0][:200]
            print(f"FAILED {kind.__name__} {seed}: {type(reason).__name__}: {line}", flush=True)
        found[kind.__name__, result] += 1
        seconds[kind.__name__] += time.process_time() - began
        if (seed + 1) % 500 == 0:
            print(f"to {seed + 1}: {time.process_time():.0f} CPU s", flush=True)
    print(f"{'call':>22}{'inputs':>8}{'refused':>9}{'answered':>10}{'failed':>8}{'CPU s':>8}")
    for name in [*seconds, "all"]:
        of = [sum(n for (k, r), n in found.items() if name in (k, "all") and r == result)
              for result in ("refused", "answered", "failed")]  # fmt: skip
        spent = sum(seconds.values()) if name == "all" else seconds[name]
        print(f"{name:>22}{sum(of):>8}{of[0]:>9}{of[1]:>10}{of[2]:>8}{spent:>8.0f}")


if __name__ == "__main__":
    main()
