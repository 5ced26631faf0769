"""What the tests of attention compare with: torch in float64, pair by pair, and packed rows to try."""

import numpy as np
import torch

NAMES = ("out", "lse", "dq", "dk", "dv")


def packed(lengths: list[int], row: int) -> tuple[np.ndarray, np.ndarray]:
    """Segment ids and positions of documents that stand in a row one after the other; padding behind."""
    segments, positions = np.zeros(row, np.int32), np.zeros(row, np.int32)
    start = 0
    for number, length in enumerate(lengths, 1):
        length = max(0, min(length, row - start))
        segments[start : start + length], positions[start : start + length] = number, np.arange(length)
        start += length
    return segments, positions


def two_rows(length: int) -> np.ndarray:
    """Segment ids: one-token documents, a document across tiles, padding; and a row that one document fills."""
    return np.stack([packed([1, 1, length // 3, length // 2], length)[0], packed([length], length)[0]])


def visible(segments: np.ndarray, causal: bool = True, window: int | None = None) -> np.ndarray:
    """Bool [B, L, L], by the definition."""
    place = np.arange(segments.shape[1])
    mask = (segments[:, :, None] == segments[:, None, :]) & (segments[:, :, None] != 0)
    if causal:
        mask = mask & (place[None, :] <= place[:, None])
    return mask if window is None else mask & (place[:, None] - place[None, :] < window)


def exact(q, k, v, mask, dout, dlse, *, scale=None, softcap=None, sinks=None):
    """{"out", "lse", "dq", "dk", "dv"} (and "dsinks") in float64 by torch's autograd, for sum(out * dout) + sum(lse * dlse).

    q [B, L, H, D], k and v [B, L, KV, D], mask [B, L, L], lse and dlse [B, L, H]; a query without keys has lse 0 here.
    """
    q, k, v = (torch.tensor(np.asarray(x, np.float64), requires_grad=True) for x in (q, k, v))
    group = q.shape[2] // k.shape[2]
    keys, values = (x.repeat_interleave(group, dim=2) for x in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q, keys) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~torch.tensor(mask)[:, None], -1e300)
    seen = torch.tensor(mask.any(-1))[:, None, :, None]
    rest = ()
    if sinks is not None:
        extra = torch.tensor(np.asarray(sinks, np.float64), requires_grad=True)
        rest = (extra,)
        scores = torch.cat([scores, extra[None, :, None, None].expand(*scores.shape[:3], 1)], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., : k.shape[1]] * seen
    out = torch.einsum("bhqk,bkhd->bqhd", weights, values)
    lse = (torch.logsumexp(scores, dim=-1) * seen[..., 0]).transpose(1, 2)
    (
        (out * torch.tensor(np.asarray(dout, np.float64))).sum() + (lse * torch.tensor(np.asarray(dlse, np.float64))).sum()
    ).backward()
    found = {"out": out, "lse": lse, "dq": q.grad, "dk": k.grad, "dv": v.grad}
    found |= {"dsinks": rest[0].grad} if rest else {}
    return {name: x.detach().numpy() for name, x in found.items()}


def distance(ours, theirs) -> float:
    """Relative L2."""
    theirs = np.asarray(theirs, np.float64)
    return float(np.linalg.norm(np.asarray(ours, np.float64) - theirs) / max(np.linalg.norm(theirs), 1e-30))
