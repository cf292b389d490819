"""Sequences of tokens from any function that gives the logits of the next one."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from amortized.arrays import as_tensor
from amortized.generators.generator import Generator
from amortized.validation import number_between, whole_number

__all__ = ["TokenGenerator"]


class TokenGenerator(Generator):
    """An autoregressive model of tokens, such as a small torch module.

    The state of a sequence is all of its tokens, the prompt included, ``(n, length)``.

    Args:
        logits: ``logits(tokens) -> (n, n_tokens)`` of the next token given those so far,
            ``(n, length)`` of integers; the length is 0 at first if there is no prompt.
        n_steps: tokens to generate.
        prompt: tokens that all sequences begin with, ``(length,)``.
        temperature: the logits are divided by it.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> def never_twice(tokens):  # three tokens, none of them twice in a row
        ...     last = tokens[:, -1:]
        ...     return torch.zeros(len(tokens), 3).scatter(1, last, -torch.inf)
        >>> generator = TokenGenerator(never_twice, 4, prompt=[0])
        >>> bool((generator.draw(5).diff(dim=1) != 0).all())
        True
    """

    def __init__(
        self,
        logits: Callable[[Tensor], Tensor],
        n_steps: int,
        prompt: list[int] | Tensor = (),  # type: ignore[assignment]
        temperature: float = 1.0,
    ) -> None:
        self.n_steps, self._logits = whole_number("n_steps", n_steps, 1), logits
        self.temperature = number_between("temperature", temperature, 0, math.inf)
        tokens = as_tensor(prompt, "prompt")
        if bool((tokens != tokens.round()).any()):
            raise ValueError(f"Expected a prompt of whole numbers; got {prompt}.")
        self._prompt = tokens.long().reshape(1, -1)

    def log_probs(self, tokens: Int[Tensor, "n length"]) -> Float[Tensor, "n tokens"]:
        """Log probabilities of the next token."""
        with torch.no_grad():
            logits = self._logits(tokens)
        if logits.ndim != 2 or len(logits) != len(tokens):
            raise ValueError(
                f"Expected logits of shape ({len(tokens)}, n_tokens); got {tuple(logits.shape)}."
            )
        log_probs = (logits.double() / self.temperature).log_softmax(-1)
        if bool(log_probs.isnan().any()):
            raise ValueError(
                "Expected logits that are finite, or -inf for some tokens; got NaN, +inf, or -inf "
                "for all."
            )
        return log_probs

    def start(self, n: int, generator: torch.Generator) -> Tensor:
        return self.extend(self._prompt.expand(n, -1), 0, generator)

    def extend(self, state: Tensor, t: int, generator: torch.Generator) -> Tensor:
        shares = self.log_probs(state).exp()
        drawn = torch.multinomial(shares, 1, generator=generator)
        return torch.cat([state, drawn], 1)

    def value(self, state: Tensor, t: int) -> Tensor:
        return state[:, -1]

    def force(self, state: Tensor | None, t: int, value: Tensor) -> Tensor:
        if bool((value != value.round()).any() or (value < 0).any()):
            raise ValueError(f"Expected tokens, whole numbers from 0; got {value.tolist()}.")
        before = self._prompt.expand(len(value), -1) if state is None else state
        return torch.cat([before, value.long().reshape(-1, 1)], 1)
