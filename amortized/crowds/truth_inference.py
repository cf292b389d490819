"""The estimator of true classes from labels by several workers."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, check_random_state

from amortized.crowds import dawid_skene, one_coin, top_two
from amortized.crowds.answers import Answers, encode, read
from amortized.crowds.dawid_skene import Sweep
from amortized.sampling.checks.convergence import r_hat
from amortized.validation import number_between, whole_number

MODELS: dict[str, Callable[[Answers, Any, np.random.Generator], Sweep]] = {
    "dawid-skene": dawid_skene.sweep,
    "one-coin": one_coin.sweep,
    "top-two": top_two.sweep,
}
_LARGEST_R_HAT = 1.1

Classes = Sequence[Any] | None


@dataclass(eq=False, repr=False)
class TruthInference(BaseEstimator):
    """Posterior of the true classes of items that several workers have labelled.

    Workers' skills and their distribution are inferred jointly with the true classes, by Gibbs
    sampling with several chains. See the modules of `amortized.crowds` for the models.

    Args:
        model: "dawid-skene", a confusion matrix for each worker; "one-coin", one accuracy for each
            worker, for few labels; or "top-two", where each item also has a second class that is
            confused with the true one, and workers sometimes guess.
        n_draws: number of draws over all chains.
        n_warmup: number of discarded sweeps of every chain; `partial_fit` continues the chains.
        n_chains: number of independent chains.
        random_state: seed, generator of NumPy, or None.

    Attributes:
        items_: the items, sorted; rows of `predict_proba`.
        workers_: the workers, sorted.
        classes_: the classes, sorted.
        worker_skill_: posterior mean of each worker's accuracy; for "top-two", of the probability
            of not guessing.
        confusion_: posterior mean of each worker's confusion matrix, with true classes in rows and
            labels in columns, ``(n_workers, n_classes, n_classes)``; for "top-two" without the
            confusion with second classes.
        second_: for "top-two", the most probable second class of each item.
        confusion_probability_: for "top-two", the posterior mean of the probability that a worker
            who does not guess gives the true class instead of the second one.
        r_hat_: the largest R-hat of the skills.

    Warns:
        UserWarning: if chains disagree.

    Example:
        >>> items = [0, 0, 0, 1, 1, 1, 2, 2, 2]
        >>> workers = ["ann", "bob", "eve"] * 3
        >>> answers = ["cat", "cat", "dog", "dog", "dog", "cat", "cat", "cat", "dog"]
        >>> crowd = TruthInference("one-coin", random_state=0).fit(items, workers, answers)
        >>> crowd.predict().tolist()
        ['cat', 'dog', 'cat']
        >>> bool(crowd.worker_skill_[0] > 0.5 > crowd.worker_skill_[2])
        True
    """

    model: str = "dawid-skene"
    _: KW_ONLY
    n_draws: int = 1000
    n_warmup: int = 200
    n_chains: int = 4
    random_state: Any = None

    def fit(
        self, items: ArrayLike, workers: ArrayLike, answers: ArrayLike, classes: Classes = None
    ) -> "TruthInference":
        """Infers true classes and skills from labels.

        Args:
            items: the item of each label, as a name or a number.
            workers: the worker of each label.
            answers: the labels.
            classes: all possible classes; None for those that occur.

        Raises:
            ValueError: if an option is unknown or the labels are inconsistent.
        """
        self._check_options()
        self._columns = read(items, workers, answers)
        self._named = None if classes is None else list(classes)
        self._rng = np.random.default_rng(check_random_state(self.random_state).randint(2**31))
        return self._run(None)

    def partial_fit(
        self, items: ArrayLike, workers: ArrayLike, answers: ArrayLike, classes: Classes = None
    ) -> "TruthInference":
        """Adds labels of old or new items.

        All labels are kept and the chains are continued, so the posterior is that given all labels.

        Args:
            items: as for `fit`.
            workers: as for `fit`.
            answers: as for `fit`; new classes are allowed unless `fit` was given all classes.
            classes: as for `fit`, in the first call.
        """
        if not hasattr(self, "items_"):
            return self.fit(items, workers, answers, classes)
        new = read(items, workers, answers)
        encode(new, self.classes_ if self._named is None else self._named)
        before = dict(zip(self.items_.tolist(), self._last.truth.T, strict=True))
        self._columns = [np.concatenate(pair) for pair in zip(self._columns, new, strict=True)]
        return self._run(before)

    def predict(self) -> np.ndarray:
        """The most probable class of each of ``items_``."""
        return self.classes_[self.predict_proba().argmax(-1)]

    def predict_proba(self) -> Float[np.ndarray, "n_items n_classes"]:
        """Posterior probability of each class for each of ``items_``."""
        check_is_fitted(self, "items_")
        return self._probability

    def worker_skill_interval(
        self, level: float = 0.9
    ) -> tuple[Float[np.ndarray, " n_workers"], Float[np.ndarray, " n_workers"]]:
        """Central posterior interval of each worker's skill."""
        check_is_fitted(self, "items_")
        level = number_between("level", level, 0, 1)
        tail = (1 - level) / 2
        low, high = np.quantile(self._skills.reshape(-1, len(self.workers_)), [tail, 1 - tail], 0)
        return low, high

    def _check_options(self) -> None:
        if self.model not in MODELS:
            raise ValueError(f"Expected a model among {list(MODELS)}; got {self.model!r}.")
        for name, least in (("n_draws", 1), ("n_warmup", 0), ("n_chains", 1)):
            whole_number(name, getattr(self, name), least)

    def _run(self, before: dict[Any, np.ndarray] | None) -> "TruthInference":
        """Runs the chains on all labels, starting from earlier states of known items."""
        answers, *known = encode(self._columns, self._named)
        self.items_, self.workers_, self.classes_ = known
        state: Any = dawid_skene.start(answers, int(self.n_chains), self._rng)
        for i, item in enumerate(self.items_.tolist() if before else []):
            if before and item in before:
                state[:, i] = before[item]
        sweep = MODELS[self.model]
        for _ in range(int(self.n_warmup)):
            state = sweep(answers, state, self._rng)
        sums: dict[str, np.ndarray] = {}
        skills = []
        n_each = -(-int(self.n_draws) // int(self.n_chains))
        for _ in range(n_each):
            state = sweep(answers, state, self._rng)
            skills.append(state.skill)
            for name in ("probability", "confusion", "second", "confusability"):
                value = getattr(state, name)
                if value is not None:
                    sums[name] = sums.get(name, 0.0) + value.mean(0) / n_each
        self._last, self._skills = state, np.stack(skills, 1)  # (chains, draws, workers)
        self._store(sums)
        return self

    def _store(self, means: dict[str, np.ndarray]) -> None:
        self._probability, self.confusion_ = means["probability"], means["confusion"]
        self.worker_skill_ = self._skills.mean((0, 1))
        if "second" in means:
            self.second_ = self.classes_[means["second"].argmax(-1)]
            self.confusion_probability_ = means["confusability"]
        self.r_hat_ = 1.0
        if self._skills.shape[1] >= 4:
            self.r_hat_ = float(r_hat(torch.as_tensor(self._skills)).max())
        if not self.r_hat_ <= _LARGEST_R_HAT:
            warnings.warn(
                f"Chains disagree about the workers' skills: R-hat is {self.r_hat_:.2f}. The "
                "posterior may have several modes; increase n_warmup and n_draws, or use "
                "model='one-coin'.",
                UserWarning,
                stacklevel=4,
            )
