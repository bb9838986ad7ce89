"""What the gates of DiP-GO are made from: learnable queries, an encoder and a head per gate (section 3.3), or a
table."""

import torch
from torch import nn

WIDTH, HIDDEN = 512, 128  # of the queries, and inside the encoder and the heads
KEEP_BIAS = 1.0  # the keep logit of a fresh network; reuse has 0


class GateTable(nn.Module):
    """One free number per gate: as expressive as the network, because neither sees an input."""

    def __init__(self, init: torch.Tensor):
        super().__init__()
        self.score = nn.Parameter(init.clone())

    def forward(self) -> torch.Tensor:
        """Return how much each gate is for keeping, (T, U): the keep logit minus the reuse logit."""
        return self.score


class GateNetwork(nn.Module):
    """T x U queries, an encoder over the units of a call, and a head of its own for each gate; two logits each.

    The last layer starts with weight 0 and bias 1 for keeping, so that at first everything is kept. `encoder` is
    `attention` (applied, which the released code leaves out), `linear`, or `none`. `init` (T, U) is added to the
    scores.
    """

    init: torch.Tensor

    def __init__(self, init: torch.Tensor, encoder: str):
        super().__init__()
        calls, units = init.shape
        self.register_buffer("init", init.clone())
        self.queries = nn.Parameter(torch.randn(calls, units, WIDTH))
        self.attention = Attention() if encoder == "attention" else None
        self.mixing = (
            None if encoder == "none" else nn.Sequential(nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH))
        )
        self.norm = nn.LayerNorm(WIDTH)
        gates = calls * units
        self.inner = nn.Parameter(torch.randn(gates, WIDTH, HIDDEN) * WIDTH**-0.5)
        self.inner_bias = nn.Parameter(torch.zeros(gates, 1, HIDDEN))
        self.last = nn.Parameter(torch.zeros(gates, HIDDEN, 2))
        self.last_bias = nn.Parameter(torch.tensor([0.0, KEEP_BIAS]).expand(gates, 1, 2).clone())

    def forward(self) -> torch.Tensor:
        """Return the keep logit minus the reuse logit, (T, U)."""
        x = self.queries if self.attention is None else self.attention(self.queries)
        x = x if self.mixing is None else self.norm(x + self.mixing(x))
        x = torch.baddbmm(self.inner_bias, x.flatten(0, 1).unsqueeze(1), self.inner).relu()
        logits = torch.baddbmm(self.last_bias, x, self.last).view(*self.queries.shape[:2], 2)
        return logits[..., 1] - logits[..., 0] + self.init


class Attention(nn.Module):
    """Single-headed self-attention among the units of a call, with residual and norm."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = (nn.Linear(WIDTH, HIDDEN, bias=False) for _ in range(2))
        self.value, self.norm = nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = nn.functional.scaled_dot_product_attention(self.query(x), self.key(x), x)
        return self.norm(x + self.value(mixed))
