r"""Markov chains of symbols whose transition probabilities are integrated out.

The state s consists of the last k symbols. The probabilities of the next of V symbols have a
symmetric Dirichlet prior with concentration a. With counts :math:`n_{sv}` of symbol v after s,

.. math:: p(v \mid s, D) = \frac{n_{sv} + a}{n_s + V a}, \qquad
    p(D) = \prod_s \frac{\Gamma(V a)}{\Gamma(n_s + V a)}
        \prod_v \frac{\Gamma(n_{sv} + a)}{\Gamma(a)}.

Several orders k are averaged with weights proportional to their evidence, each given the same first
symbols.

References:
    A hierarchical Dirichlet language model (MacKay and Bauman Peto, 1995).
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, logsumexp, softmax
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from amortized.arrays import without_mask
from amortized.validation import number_between, whole_number

State = tuple[int, ...]


@dataclass(eq=False, repr=False)
class MarkovChain(BaseEstimator):
    """The exact predictive of a Markov chain with unknown transition probabilities.

    Parameters:
        order: number of previous symbols on which the next one depends, or several numbers with
            equal prior probability, which are averaged.
        concentration: concentration of the Dirichlet prior for each symbol; 1 is uniform.
        symbols: all possible symbols; None uses those that occur.
        random_state: seed of `sample_paths`.

    Attributes:
        classes_: the symbols, sorted.
        order_probabilities_: posterior probability of each order, in the order given.
        log_evidence_: log evidence of the sequences, averaged over orders, given the first symbols
            of each, as many as the highest order.

    Example:
        >>> chain = MarkovChain(order=1).fit("abababab")
        >>> chain.predict_proba("a")
        array([0.16666667, 0.83333333])
    """

    order: int | Sequence[int] = 1
    _: KW_ONLY
    concentration: float = 1.0
    symbols: ArrayLike | None = None
    random_state: int | np.random.RandomState | None = 0

    def fit(self, sequences: Any) -> "MarkovChain":
        """Counts transitions.

        Args:
            sequences: one sequence of symbols, such as a string or an array, or a list of them. A
                list of words is a list of sequences of letters: give a single sequence of words as
                an array, and several as lists.

        Raises:
            ValueError: if a sequence is not longer than the highest order or contains a symbol not
                in ``symbols``, or if a parameter is out of range.
        """
        orders = self.order if isinstance(self.order, list | tuple | np.ndarray) else (self.order,)
        self._orders = [whole_number("order", k, 0) for k in orders]
        if not self._orders or len(set(self._orders)) < len(self._orders):
            raise ValueError(f"Expected distinct orders of at least 0; got {self.order!r}.")
        number_between("concentration", self.concentration, 0, np.inf)
        each = [_symbols(sequence) for sequence in _as_list(sequences)]
        seen = np.unique(np.concatenate(each) if each else [])
        self.classes_ = seen if self.symbols is None else np.unique(_symbols(self.symbols))
        codes = [self._codes(sequence) for sequence in each]
        first = max(self._orders)
        short = [len(code) for code in codes if len(code) <= first]
        if short or not codes:
            raise ValueError(
                f"Expected sequences of more than {first} symbols, the highest order; got "
                f"{short[0] if short else 'none'}. Leave short ones out, or lower the order."
            )
        self._counts: list[dict[State, NDArray[np.float64]]] = [{} for _ in self._orders]
        self._log_evidences = np.zeros(len(self._orders))
        self._append(codes, first)
        self._random = check_random_state(self.random_state)
        self._last = codes[-1][len(codes[-1]) - first :]
        return self

    def predict_proba(self, context: Any = None) -> NDArray[np.float64]:
        """Probabilities of the next symbol, ``(symbols,)``.

        Args:
            context: the previous symbols, at least as many as the highest order; None uses the end
                of the last sequence.
        """
        check_is_fitted(self, "classes_")
        first = max(self._orders)
        code = self._last if context is None else self._codes(_symbols(context))
        if len(code) < first:
            raise ValueError(f"Expected a context of at least {first} symbols; got {len(code)}.")
        return self._next(code, self._counts, self.order_probabilities_)

    def log_prob(self, sequence: Any) -> float:
        """Log probability of a new sequence given all data, after its first symbols."""
        check_is_fitted(self, "classes_")
        code = self._codes(_symbols(sequence))
        more = [
            self._evidence([code], k, counts, max(self._orders))
            for k, counts in zip(self._orders, self._counts, strict=True)
        ]
        return float(logsumexp(np.log(self.order_probabilities_) + more))

    def sample_paths(self, h: int, n: int = 100) -> NDArray[Any]:
        """Joint draws of the next h symbols after the last sequence, ``(n, h)``.

        The counts of each path are updated by its own symbols, because transition probabilities are
        uncertain.
        """
        check_is_fitted(self, "classes_")
        h, n = whole_number("h", h, 1), whole_number("n", n, 1)
        paths = np.empty((n, h), dtype=np.intp)
        for i in range(n):
            which = self._random.choice(len(self._orders), p=self.order_probabilities_)
            k, known = self._orders[which], self._counts[which]
            own: dict[State, NDArray[np.float64]] = {}
            code = list(self._last)
            for t in range(h):
                state = tuple(code[len(code) - k :])
                counts = own.get(state, known.get(state, np.zeros(len(self.classes_))))
                weight = counts + self.concentration
                code.append(int(self._random.choice(len(weight), p=weight / weight.sum())))
                own[state] = counts + np.eye(len(weight))[code[-1]]
                paths[i, t] = code[-1]
        return self.classes_[paths]

    @property
    def order_probabilities_(self) -> NDArray[np.float64]:
        return np.asarray(softmax(self._log_evidences))

    @property
    def log_evidence_(self) -> float:
        return float(logsumexp(self._log_evidences) - np.log(len(self._orders)))

    def _codes(self, sequence: NDArray[Any]) -> list[int]:
        unknown = sorted(set(sequence.tolist()) - set(self.classes_.tolist()), key=str)
        if unknown:
            raise ValueError(
                f"Expected symbols among {self.classes_.tolist()}; got {unknown[:5]}. Give all "
                "possible symbols as symbols=..."
            )
        return np.searchsorted(self.classes_, sequence).tolist() if len(sequence) else []

    def _append(self, codes: list[list[int]], first: int) -> None:
        """Adds sequences to the evidence and counts of every order."""
        for i, k in enumerate(self._orders):
            self._log_evidences[i] += self._evidence(codes, k, self._counts[i], first)
            for state, counts in self._tallied(codes, k, first).items():
                self._counts[i][state] = self._counts[i].get(state, 0.0) + counts

    def _evidence(self, codes: list[list[int]], k: int, known: dict[Any, Any], first: int) -> float:
        """Log evidence of sequences given previous counts."""
        total, n_symbols = 0.0, len(self.classes_)
        for state, counts in self._tallied(codes, k, first).items():
            before = known.get(state, np.zeros(n_symbols)) + self.concentration
            total += gammaln(before.sum()) - gammaln(before.sum() + counts.sum())
            total += (gammaln(before + counts) - gammaln(before)).sum()
        return float(total)

    def _tallied(
        self, codes: list[list[int]], k: int, first: int
    ) -> dict[State, NDArray[np.float64]]:
        """Counts of each symbol after each state of k symbols."""
        tally: dict[State, NDArray[np.float64]] = {}
        for code in codes:
            for t in range(first, len(code)):
                state = tuple(code[t - k : t])
                tally.setdefault(state, np.zeros(len(self.classes_)))[code[t]] += 1
        return tally

    def _next(self, code: list[int], counts: Any, weight: Any) -> NDArray[np.float64]:
        answer = np.zeros(len(self.classes_))
        for k, known, w in zip(self._orders, counts, weight, strict=True):
            state = tuple(code[len(code) - k :])
            each = known.get(state, np.zeros(len(answer))) + self.concentration
            answer += w * each / each.sum()
        return answer


def _symbols(sequence: Any) -> NDArray[Any]:
    """The symbols of a sequence, which can be told apart and sorted."""
    given = np.asarray(list(sequence) if isinstance(sequence, str) else without_mask(sequence))
    symbols = given
    if given.dtype.kind in "OU" and given.ndim == 1:  # NumPy makes text of numbers beside text
        objects = np.array(sequence if given.dtype.kind == "O" else list(sequence), dtype=object)
        is_text = all(isinstance(symbol, str) for symbol in objects)
        symbols = given.astype(str) if is_text else objects
    if symbols.ndim != 1 or symbols.dtype.kind not in "biufUS":
        raise ValueError(
            "Expected a sequence of symbols, all strings or all numbers; got "
            f"{symbols.dtype} of shape {symbols.shape}."
        )
    if bool((symbols != symbols).any()):
        raise ValueError("Expected symbols without NaN or masked ones; leave them out.")
    return symbols


def _as_list(sequences: Any) -> list[Any]:
    """Wraps a single sequence, such as a string or an array, in a list."""
    if not isinstance(sequences, list | tuple):
        return [sequences]
    if sequences and all(isinstance(each, str) for each in sequences):
        many = any(len(each) != 1 for each in sequences)
    else:
        many = all(isinstance(each, str | list | tuple | np.ndarray | Tensor) for each in sequences)
    return list(sequences) if many else [sequences]
