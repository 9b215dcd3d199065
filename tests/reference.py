"""Float64 NumPy oracles, written from the papers: slow, obvious, and sharing nothing with `mixkabrn_jax`.

Letters as in the library: an array's suffix is its shape. `R` here is also a sample of a fit.
"""

import pathlib

import numpy as np
from ml_dtypes import finfo

GOLDEN = pathlib.Path(__file__).parent / "golden"


def golden(stem):
    """A peer's numbers."""
    with np.load(GOLDEN / f"{stem}.npz") as arrays:
        return dict(arrays)


def normal(seed, *shape, dtype=np.float32):
    """Standard normal numbers: what the oracle sees in float64 is exactly what production sees in `dtype`."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def tolerance(want, terms, dtype=np.float32):
    """Rounding of a sum of `terms` products, each of them rounded: 8 eps sqrt(terms) max."""
    return 8 * float(finfo(dtype).eps) * np.sqrt(terms) * np.abs(want).max(initial=0.0)


def assert_close(got, want, *, terms=1, dtype=np.float32, atol=None):
    """Same shape, finite, and within the derived tolerance (or `atol`, derived by the caller)."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, f"shape {got.shape}, wanted {want.shape}"
    assert np.isfinite(got).all(), f"{(~np.isfinite(got)).sum()} of {got.size} not finite"
    bound = tolerance(want, terms, dtype) if atol is None else atol
    error = np.abs(got - want).max(initial=0.0)
    assert error <= bound, (
        f"off by {error:.3e}, allowed {bound:.3e}, largest wanted {np.abs(want).max(initial=0.0):.3e}"
    )


# --- B-splines ---------------------------------------------------------------------------------------------------


def uniform_knots(low, high, num_intervals, degree):
    """`num_intervals` equal steps from low to high, and `degree` more on each side."""
    step = (high - low) / num_intervals
    return np.array([low + i * step for i in range(-degree, num_intervals + degree + 1)], np.float64)


def cox_de_boor(x, knots, g, degree):
    """B_{g,degree}(x), de Boor 1978: half-open intervals, the last non-empty one closed at the last knot, 0/0 = 0."""
    if degree == 0:
        inside = (knots[g] <= x) & (x < knots[g + 1])
        if knots[g] < knots[g + 1] == knots[-1]:
            inside = inside | (x == knots[-1])
        return inside.astype(np.float64)
    value = np.zeros_like(x)
    rising = knots[g + degree] - knots[g]
    if rising > 0:
        value = value + (x - knots[g]) / rising * cox_de_boor(x, knots, g, degree - 1)
    falling = knots[g + degree + 1] - knots[g + 1]
    if falling > 0:
        value = value + (knots[g + degree + 1] - x) / falling * cox_de_boor(x, knots, g + 1, degree - 1)
    return value


def cox_de_boor_slope(x, knots, g, degree):
    """B'_{g,degree}(x) = degree (B_{g,degree-1} / (t_{g+degree} - t_g) - B_{g+1,degree-1} / (...one further))."""
    slope = np.zeros_like(x)
    rising = knots[g + degree] - knots[g]
    if degree and rising > 0:
        slope = slope + degree * cox_de_boor(x, knots, g, degree - 1) / rising
    falling = knots[g + degree + 1] - knots[g + 1]
    if degree and falling > 0:
        slope = slope - degree * cox_de_boor(x, knots, g + 1, degree - 1) / falling
    return slope


def _per_input(function, x, knots, degree):
    x, knots = np.asarray(x, np.float64), np.asarray(knots, np.float64)
    knots = np.broadcast_to(knots, (x.shape[-1], knots.shape[-1]))
    count = knots.shape[-1] - degree - 1
    columns = [[function(x[..., d], knots[d], g, degree) for g in range(count)] for d in range(x.shape[-1])]
    return np.moveaxis(np.array(columns), (0, 1), (-2, -1))


def bspline_basis(x, knots, degree):
    """x `[..., D]`, knots `[M]` or `[D, M]` -> `[..., D, G]`."""
    return _per_input(cox_de_boor, x, knots, degree)


def bspline_slope(x, knots, degree):
    """Derivative of every basis function at x."""
    return _per_input(cox_de_boor_slope, x, knots, degree)


def bspline_basis_and_slope_outside(x, knots, degree, outside):
    """Basis and slope of splines that keep their value ("clamp") or their line ("linear") from the ends of the grid."""
    knots = np.broadcast_to(knots, (x.shape[-1], np.shape(knots)[-1]))
    ends = knots[:, degree], knots[:, -degree - 1]
    at = np.clip(x, *ends)
    value, slope = bspline_basis(at, knots, degree), bspline_slope(at, knots, degree)
    for end, neighbour, sign in ((ends[0], knots[:, degree + 1], -1), (ends[1], knots[:, -degree - 2], 1)):
        # At degree 1 the slope jumps at the end: the one inside is that of the whole interval.
        inside = (end + neighbour) / 2 if degree == 1 else end
        end_slope = bspline_slope(inside[None], knots, degree)[0]
        beyond = sign * (x - end) > 0
        kept = np.where(outside == "linear", end_slope, np.zeros_like(end_slope))
        slope = np.where(beyond[..., None], kept, slope)
        value = value + np.where(beyond, x - end, 0)[..., None] * kept
    return value, slope


def bspline_fit(x, y, knots, degree):
    """Least squares, one input after the other: x `[R, D]`, y `[R, D, F]` -> `[D, F, G]`."""
    basis = bspline_basis(x, knots, degree)
    inputs = range(x.shape[1])
    return np.stack([np.linalg.lstsq(basis[:, d], y[:, d].astype(np.float64), rcond=None)[0].T for d in inputs])


# --- Other functions of KAN edges --------------------------------------------------------------------------------


def chebyshev(x, num_basis):
    """T_g(tanh x) by its cosine, `[..., D]` -> `[..., G, D]`."""
    return np.stack([np.cos(g * np.arccos(np.tanh(x))) for g in range(num_basis)], axis=-2)


def fourier(x, low, high, num_basis):
    """1, cos, sin, cos of 2, sin of 2, ... with one period on [low, high], `[..., D]` -> `[..., G, D]`."""
    phase = 2 * np.pi * (x - low) / (high - low)
    return np.stack([(np.sin if g and g % 2 == 0 else np.cos)((g + 1) // 2 * phase) for g in range(num_basis)], axis=-2)


def gaussian_rbf(x, low, high, num_basis):
    """Bumps around equally spaced centres on [low, high], as wide as they are apart, `[..., D]` -> `[..., G, D]`."""
    step = (high - low) / max(num_basis - 1, 1)
    return np.stack([np.exp(-(((x - (low + g * step)) / step) ** 2)) for g in range(num_basis)], axis=-2)


def group_rational(x, numerator_PK, denominator_PK):
    """Eq. 9 of KAT, one input after the other: input d of D belongs to group floor(d P / D)."""
    width, num_groups = x.shape[-1], len(numerator_PK)
    columns = []
    for d in range(width):
        column, p = x[..., d].astype(np.float64), d * num_groups // width
        top = sum(a * column**power for power, a in enumerate(numerator_PK[p].astype(np.float64)))
        bottom = sum(b * column ** (power + 1) for power, b in enumerate(denominator_PK[p].astype(np.float64)))
        columns.append(top / (1 + np.abs(bottom)))
    return np.stack(columns, axis=-1)


# --- Retention ---------------------------------------------------------------------------------------------------


def log_decay(num_heads, first_decay_exponent=5.0):
    """gamma_h = 1 - 2^(-first_decay_exponent - h)."""
    return np.log1p(-(2.0 ** (-first_decay_exponent - np.arange(num_heads, dtype=np.float64))))


def segment_runs(segment_ids_BT):
    """Number of the contiguous run each token is in: 0, 0, 1, 1, 1, 2, ..."""
    ids = np.asarray(segment_ids_BT)
    starts = np.zeros(ids.shape, np.int64)
    starts[:, 1:] = ids[:, 1:] != ids[:, :-1]
    return np.cumsum(starts, axis=1)


def _retention_inputs(q, k, v, log_decay, state, segment_ids):
    """Everything in float64, and what a head keeps from after position s to t: kept(b, s, t, h), s = -1 the state."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    B, T, H, K = q.shape
    state = np.zeros((B, H, K, v.shape[-1])) if state is None else np.asarray(state, np.float64)
    runs = segment_runs(np.zeros((B, T)) if segment_ids is None else segment_ids)
    gamma_BTH = np.broadcast_to(np.exp(np.asarray(log_decay, np.float64)), (B, T, H))
    return q, k, v, lambda b, s, t, h: np.prod(gamma_BTH[b, s + 1 : t + 1, h]), state, runs


def retention(q_BTHK, k_BTHK, v_BTHV, log_decay, state_BHKV=None, segment_ids=None):
    """y_t = sum_{s<=t} gamma_{s+1} .. gamma_t (q_t.k_s) v_s within t's document, and the state after the last one.

    `log_decay` is `[H]` or `[B, T, H]`. The state that comes in belongs to the first document of the row.
    """
    q, k, v, kept, state, runs = _retention_inputs(q_BTHK, k_BTHK, v_BTHV, log_decay, state_BHKV, segment_ids)
    B, T, H, _ = q.shape
    out, final = np.zeros_like(v), np.zeros_like(state)
    for b in range(B):
        for h in range(H):
            for t in range(T):
                for s in range(t + 1):
                    if runs[b, s] == runs[b, t]:
                        out[b, t, h] += kept(b, s, t, h) * (q[b, t, h] @ k[b, s, h]) * v[b, s, h]
                if runs[b, t] == 0:
                    out[b, t, h] += kept(b, -1, t, h) * (q[b, t, h] @ state[b, h])
                if runs[b, t] == runs[b, -1]:
                    final[b, h] += kept(b, t, T - 1, h) * np.outer(k[b, t, h], v[b, t, h])
            if runs[b, -1] == 0:
                final[b, h] += kept(b, -1, T - 1, h) * state[b, h]
    return out, final


def retention_gradient(q, k, v, log_decay, out_bar, final_bar=None, state=None, segment_ids=None):
    """Gradient of <out_bar, out> + <final_bar, final> with respect to q, k, v and the state that comes in."""
    q, k, v, kept, state, runs = _retention_inputs(q, k, v, log_decay, state, segment_ids)
    B, T, H, _ = q.shape
    out_bar = np.asarray(out_bar, np.float64)
    final_bar = np.zeros_like(state) if final_bar is None else np.asarray(final_bar, np.float64)
    dq, dk, dv, dstate = np.zeros_like(q), np.zeros_like(k), np.zeros_like(v), np.zeros_like(state)
    for b in range(B):
        for h in range(H):
            for t in range(T):
                for s in range(t + 1):
                    if runs[b, s] == runs[b, t]:
                        along = out_bar[b, t, h] @ v[b, s, h]
                        dq[b, t, h] += kept(b, s, t, h) * along * k[b, s, h]
                        dk[b, s, h] += kept(b, s, t, h) * along * q[b, t, h]
                        dv[b, s, h] += kept(b, s, t, h) * (q[b, t, h] @ k[b, s, h]) * out_bar[b, t, h]
                if runs[b, t] == 0:
                    dq[b, t, h] += kept(b, -1, t, h) * (state[b, h] @ out_bar[b, t, h])
                    dstate[b, h] += kept(b, -1, t, h) * np.outer(q[b, t, h], out_bar[b, t, h])
                if runs[b, t] == runs[b, -1]:
                    dk[b, t, h] += kept(b, t, T - 1, h) * (final_bar[b, h] @ v[b, t, h])
                    dv[b, t, h] += kept(b, t, T - 1, h) * (k[b, t, h] @ final_bar[b, h])
            if runs[b, -1] == 0:
                dstate[b, h] += kept(b, -1, T - 1, h) * final_bar[b, h]
    return dq, dk, dv, dstate


def row_scale(position_BT, log_decay_H):
    """1 / sqrt(S_t), S_t = 1 + gamma + ... + gamma^t, summed as it is written."""
    gamma = np.exp(np.asarray(log_decay_H, np.float64))
    totals = [[(gamma[:, None] ** np.arange(t + 1)).sum(axis=1) for t in row] for row in np.asarray(position_BT)]
    return 1 / np.sqrt(np.array(totals))


# --- Rotary positions --------------------------------------------------------------------------------------------


def linspace_frequencies(key_width, base=10000.0):
    """torchscale's: base^(-linspace(0, 1, K/2)); the last is exactly 1/base."""
    return base ** -np.linspace(0.0, 1.0, key_width // 2)


def rope_frequencies(key_width, base=10000.0):
    """RoFormer's: base^(-2i/K)."""
    return base ** -(2.0 * np.arange(key_width // 2) / key_width)


def rotate(x_BTHK, position_BT, frequency):
    """Each neighbouring pair is one complex number, turned by position times frequency."""
    x = np.asarray(x_BTHK, np.float64)
    angle = np.asarray(position_BT, np.float64)[:, :, None, None] * np.asarray(frequency, np.float64)
    turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)
    out = np.empty_like(x)
    out[..., 0::2], out[..., 1::2] = turned.real, turned.imag
    return out


# --- Softmax attention -------------------------------------------------------------------------------------------


def _attention_weights(q, k, segment_ids):
    B, T, H, K = q.shape
    runs = segment_runs(np.zeros((B, T)) if segment_ids is None else segment_ids)
    weights = np.zeros((B, H, T, T))
    for b in range(B):
        for h in range(H):
            for t in range(T):
                seen = [s for s in range(t + 1) if runs[b, s] == runs[b, t]]
                score = np.array([q[b, t, h] @ k[b, s, h] for s in seen]) / np.sqrt(K)
                weight = np.exp(score - score.max())
                weights[b, h, t, seen] = weight / weight.sum()
    return weights


def attention(q_BTHK, k_BTHK, v_BTHV, segment_ids=None):
    """softmax over the past of the same document of q.k / sqrt(K), times v."""
    q, k, v = (np.asarray(a, np.float64) for a in (q_BTHK, k_BTHK, v_BTHV))
    return np.einsum("bhts,bshv->bthv", _attention_weights(q, k, segment_ids), v)


def attention_gradient(q_BTHK, k_BTHK, v_BTHV, out_bar, segment_ids=None):
    """Gradient of <out_bar, out> with respect to q, k and v."""
    q, k, v, out_bar = (np.asarray(a, np.float64) for a in (q_BTHK, k_BTHK, v_BTHV, out_bar))
    p = _attention_weights(q, k, segment_ids)
    p_bar = np.einsum("bthv,bshv->bhts", out_bar, v)
    score_bar = p * (p_bar - (p * p_bar).sum(axis=-1, keepdims=True)) / np.sqrt(q.shape[-1])
    dq = np.einsum("bhts,bshk->bthk", score_bar, k)
    dk = np.einsum("bhts,bthk->bshk", score_bar, q)
    return dq, dk, np.einsum("bhts,bthv->bshv", p, out_bar)


# --- Ternary and binary weights, integer activations -------------------------------------------------------------


def quantize_weight(w):
    """BitNet b1.58: scale = mean |w|, codes = clip(round half to even(w / scale), -1, 1)."""
    w = np.asarray(w, np.float64)
    scale = max(np.abs(w).mean(), 1e-5)
    return np.clip(np.round(w / scale), -1, 1).astype(np.int8), scale


def binarize_weight(w):
    """BitNet b1: sign(w - mean w), 0 counted as +1, and scale = mean |w|."""
    w = np.asarray(w, np.float64)
    return np.where(w - w.mean() >= 0, 1, -1).astype(np.int8), np.abs(w).mean()


def quantize_activation(x, bits=8):
    """Per token: scale = max |x| / (2^(bits-1) - 1), codes = clip(round half to even(x / scale))."""
    x = np.asarray(x, np.float64)
    top = 2 ** (bits - 1) - 1
    scale = np.maximum(np.abs(x).max(axis=-1, keepdims=True), 1e-5) / top
    return np.clip(np.round(x / scale), -top - 1, top).astype(np.int8), scale


def pack(codes_RF):
    """Four codes to a byte, HF's layout: byte[r] = sum_i (code[r + i R/4] + 1) << 2i; R a multiple of 4."""
    rows = codes_RF.shape[0] // 4
    packed = np.zeros((rows, *codes_RF.shape[1:]), np.uint8)
    for i in range(4):
        packed |= (codes_RF[i * rows : (i + 1) * rows] + 1).astype(np.uint8) << np.uint8(2 * i)
    return packed


# --- Routing -----------------------------------------------------------------------------------------------------


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


def top_k_gates(logits, k, *, score, bias=None, num_groups=1, groups_per_token=1, normalize=False, scale=1.0):
    """One token after the other: score, rank the groups, keep the best, rank the experts in them, weigh.

    softmax: a group is as good as its best expert (DeepSeek-V2); sigmoid: as the sum of its best two (V3).
    The bias enters the ranking only. Choices come best first.
    """
    logits = np.asarray(logits, np.float64)
    E = logits.shape[-1]
    scores = {"softmax": softmax, "sigmoid": sigmoid}[score](logits).reshape(-1, E)
    weights, indices = [], []
    for s in scores:
        ranked = s if bias is None else s + np.asarray(bias, np.float64)
        groups = np.arange(E).reshape(num_groups, -1)
        best = 1 if score == "softmax" else 2
        worth = [np.sort(ranked[group])[::-1][:best].sum() for group in groups]
        kept = groups[np.argsort(worth)[::-1][:groups_per_token]].reshape(-1)
        chosen = kept[np.argsort(ranked[kept])[::-1][:k]]
        w = s[chosen]
        weights.append(scale * (w / w.sum() if normalize else w))
        indices.append(chosen)
    shape = (*logits.shape[:-1], k)
    return np.array(weights).reshape(shape), np.array(indices).reshape(shape)


def balance_loss(scores, indices, mask=None):
    """sum_i f_i P_i over the tokens that count: f_i = E/(N T) count_i, P_i = mean score (DeepSeekMoE, eq. 12-14).

    A token's scores count by their share of its total (DeepSeek-V3, eq. 19): a softmax's total is 1 already.
    """
    E, N = scores.shape[-1], indices.shape[-1]
    counts = np.ones(scores.shape[:-1], bool) if mask is None else np.asarray(mask, bool)
    scores, indices = np.asarray(scores, np.float64)[counts], np.asarray(indices)[counts]
    T = len(scores)
    loss = 0.0
    for i in range(E):
        f = E / (N * T) * (indices == i).sum()
        loss += f * (scores[:, i] / scores.sum(axis=1)).mean()
    return loss


def device_balance_loss(scores, indices, num_groups, mask=None):
    """sum_d f'_d P'_d: f'_d the mean f_i of the experts on device d, P'_d the sum of their P_i (eq. 15-17)."""
    E, N = scores.shape[-1], indices.shape[-1]
    counts = np.ones(scores.shape[:-1], bool) if mask is None else np.asarray(mask, bool)
    scores, indices = np.asarray(scores, np.float64)[counts], np.asarray(indices)[counts]
    T = len(scores)
    loss = 0.0
    for device in np.arange(E).reshape(num_groups, -1):
        f = np.mean([E / (N * T) * (indices == i).sum() for i in device])
        loss += f * sum((scores[:, i] / scores.sum(axis=1)).mean() for i in device)
    return loss


def sequence_balance_loss(scores_BTE, indices_BTN, mask_BT):
    """The balance loss of one sequence after the other, as a mean over those with tokens (DeepSeek-V3, eq. 17-20)."""
    rows = zip(scores_BTE, indices_BTN, mask_BT, strict=True)
    return np.mean([balance_loss(scores, indices, mask) for scores, indices, mask in rows if np.any(mask)])


def z_loss(logits, mask):
    """Mean over the tokens that count of log(sum exp)^2 (ST-MoE, eq. 5)."""
    logits = np.asarray(logits, np.float64)[np.asarray(mask, bool)]
    return (np.log(np.exp(logits).sum(axis=-1)) ** 2).mean()


def within_capacity(indices_TN, num_experts, capacity, mask_T):
    """Which choices are kept: token after token, best choice first, up to their expert's capacity; padding never."""
    used, kept = np.zeros(num_experts, int), np.zeros(np.shape(indices_TN), bool)
    for t, n in np.ndindex(kept.shape):
        e = indices_TN[t][n]
        if mask_T[t] and used[e] < capacity:
            used[e] += 1
            kept[t, n] = True
    return kept


# --- Grouped matrix product --------------------------------------------------------------------------------------


def _groups(group_sizes):
    ends = np.cumsum(group_sizes)
    return [(e, slice(end - size, end)) for e, (size, end) in enumerate(zip(group_sizes, ends, strict=True))]


def grouped_matmul(x_RD, w_EDF, group_sizes):
    """Each expert's rows times its matrix; rows that belong to nobody are 0."""
    x, w = np.asarray(x_RD, np.float64), np.asarray(w_EDF, np.float64)
    out = np.zeros((len(x), w.shape[-1]))
    for e, rows in _groups(group_sizes):
        out[rows] = x[rows] @ w[e]
    return out


def grouped_matmul_gradient(x_RD, w_EDF, group_sizes, out_bar):
    """Gradient of <out_bar, out> with respect to x and w."""
    x, w, out_bar = (np.asarray(a, np.float64) for a in (x_RD, w_EDF, out_bar))
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    for e, rows in _groups(group_sizes):
        dx[rows] = out_bar[rows] @ w[e].T
        dw[e] = x[rows].T @ out_bar[rows]
    return dx, dw


# --- Which updates are skipped -----------------------------------------------------------------------------------


def newton_schulz(x_DF):
    """About the nearest matrix with singular values of 1: Jordan et al. 2024, five steps with their coefficients."""
    x_DF = x_DF / np.linalg.norm(x_DF)
    for _ in range(5):
        gram = x_DF @ x_DF.T
        x_DF = 3.4445 * x_DF + (-4.7750 * gram + 2.0315 * gram @ gram) @ x_DF
    return x_DF


def muon(grads, momentum):
    """The update behind these gradients of one matrix, before the rate: entries of a root mean square of about 0.2."""
    trace = np.zeros_like(grads[0])
    for grad in grads:
        trace = momentum * trace + grad
    nesterov = grads[-1] + momentum * trace
    return 0.2 * np.sqrt(max(nesterov.shape)) * newton_schulz(nesterov)


def guarded(losses, grad_norms, window, sigmas, max_consecutive):
    """Of each update of a run "accepted", why it was skipped, or "over" once so many in a row were."""
    kept, verdicts, in_a_row = [], [], 0
    for loss, grad_norm in zip(losses, grad_norms, strict=True):
        is_spike, last = False, np.asarray(kept[-window:], np.float64)
        if len(last) >= max(window // 2, 2):
            is_spike = loss > np.mean(last) + sigmas * np.std(last, ddof=1)
        if in_a_row >= max_consecutive:
            verdicts.append("over")
            continue
        if not np.isfinite(loss):
            verdicts.append("non-finite loss")
        elif not np.isfinite(grad_norm):
            verdicts.append("non-finite gradients")
        elif is_spike:
            verdicts.append("loss spike")
        else:
            verdicts.append("accepted")
            kept.append(loss)
        in_a_row = 0 if verdicts[-1] == "accepted" else in_a_row + 1
    return verdicts
