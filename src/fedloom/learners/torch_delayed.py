"""The first layer of a perceptron, moved once in several steps: most of a small network is its first layer.

Within a window of steps the weights stay, and what the steps so far would have changed is added to the logits by the
products of the rows with each other::

    x_s w_s = x_s w_0 - sum over r < s of (x_s . x_r) d_r

where ``d_r`` is the slope of step r, learning rate included. So the weights, too many for the nearest cache, are read
and written once a window in place of three times a step. The large products are taken client by client: a window's
rows depend on its client alone, and so do its bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedloom.learners.torch_stack import Window, padded

_ROWS = 64
"""Rows of a window: the products of rows with each other then cost a tenth of those with 200 units."""
_LEAST = 64
"""Columns and units from which a window is worth it."""


def window_steps(columns: int, units: int, *, rows: int) -> int:
    """Return the steps of a window, 1 where the layer is better moved at every step; no machine is asked.

    Example:
        >>> window_steps(784, 200, rows=10), window_steps(784, 10, rows=10)
        (6, 1)
    """
    return max(1, _ROWS // rows) if min(columns, units) >= _LEAST else 1


class Delayed:
    """Logits, products of rows, and slopes of a window, for stacked clients."""

    def __init__(self, *, clients: int, steps: int, rows: int, units: int, like: torch.Tensor) -> None:
        self.steps, self.rows, self.units = steps, rows, units
        length = steps * rows
        self.logits = _stacked(like, clients, length, units)
        self.slopes = _stacked(like, clients, length, units)
        # Of the rows of each step but the first with those of each step but the last.
        self.products = _stacked(like, clients, length - rows, length - rows)
        self.change: torch.Tensor | None = None

    def begin(self, weights: Sequence[torch.Tensor], bias: torch.Tensor | None, window: Window) -> None:
        """Take the products of a window's rows.

        Args:
            weights: Of each client, before the window.
            bias: Of all clients, ``(clients, 1, units)``.
            window: Its rows, and how many each client has.
        """
        for client, count in enumerate(window.counts):
            length = count * self.rows
            x = window.rows[client, :count].view(length, -1)
            logits = self.logits[client, :length]
            if bias is None:
                torch.mm(x, weights[client].t(), out=logits)
            else:
                torch.addmm(bias[client, 0], x, weights[client].t(), out=logits)
            if count > 1:
                later = length - self.rows
                torch.mm(x[self.rows :], x[:later].t(), out=self.products[client, :later, :later])
        if bias is not None:  # a bias is the weight of a column of ones
            self.products.add_(1.0)

    def write_logits(self, step: int, alive: int, out: torch.Tensor) -> None:
        """Write the logits of a step, as the steps before it in the window have changed them."""
        start, stop = step * self.rows, (step + 1) * self.rows
        logits = self.logits[:alive, start:stop]
        if step == 0:
            out.copy_(logits)
            return
        products, slopes = self.products[:alive, start - self.rows : start, :start], self.slopes[:alive, :start]
        torch.baddbmm(logits, products, slopes, alpha=-1.0, out=out)

    def keep_slopes(self, step: int, slopes: torch.Tensor) -> None:
        """Keep the slopes of a step."""
        self.slopes[: len(slopes), step * self.rows : (step + 1) * self.rows] = slopes

    def end(self, weights: Sequence[torch.Tensor], bias: torch.Tensor | None, window: Window) -> None:
        """Write the weights of each client after all steps of the window, and move its bias."""
        out = window.params.cut(len(window.counts))[0]
        if window.starts is None and self.change is None:
            self.change = torch.empty_like(out[0])
        for client, count in enumerate(window.counts):
            length = count * self.rows
            slopes = self.slopes[client, :length]
            x = window.rows[client, :count].view(length, -1)
            # Weights that nobody has read yet are written once: the change is put in their place.
            change = out[client] if self.change is None else self.change
            torch.mm(slopes.t(), x, out=change)
            torch.sub(weights[client], change, out=out[client])
            if bias is not None:
                bias[client, 0].sub_(slopes.sum(0))


def _stacked(like: torch.Tensor, clients: int, rows: int, width: int) -> torch.Tensor:
    stride = padded(rows * width)
    flat = torch.empty((clients, stride), dtype=like.dtype, device=like.device)
    return flat.as_strided((clients, rows, width), (stride, width, 1))
