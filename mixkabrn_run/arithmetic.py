"""Float32 arithmetic that gives the same bits on every machine.

IEEE 754 rounds sums, products, quotients and square roots alike everywhere; what differs between machines is the order
of sums, fused multiply-adds, and exp, sin and cos, which no standard fixes. So all of these have one definition here:
sums run in a fixed order, and functions are polynomials of plain sums and products.
"""

import math

import numpy as np

LANES = 8
_LOG2E = np.float32(1.4426950408889634)
_LN2_HIGH = np.float32(0.693359375)  # 10 bits: its products with whole numbers below 2^14 are exact
_LN2_LOW = np.float32(math.log(2) - 0.693359375)
_EXP = [np.float32(1 / math.factorial(k)) for k in range(7, -1, -1)]


def total(x: np.ndarray) -> np.float32:
    """The sum of `[D]`: entry i in lane i % 8, each lane from first to last, then lanes in pairs 4, 2 and 1 apart."""
    lanes = np.zeros(-(-max(len(x), 1) // LANES) * LANES, np.float32)
    lanes[: len(x)] = x
    lanes = np.add.reduce(lanes.reshape(-1, LANES), axis=0)
    lanes = lanes[:4] + lanes[4:]
    lanes = lanes[:2] + lanes[2:]
    return lanes[0] + lanes[1]


def totals(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """`[G, D]` @ `[G D, K]`: each sum in the order of `total`, with input d of any group in lane d % 8."""
    (groups, width), count = x.shape, w.shape[1]
    terms = np.zeros((groups, -(-width // LANES) * LANES, count), np.float32)
    terms[:, :width] = x[:, :, None] * w.reshape(groups, width, count)
    lanes = np.add.reduce(terms.reshape(-1, LANES * count), axis=0, initial=np.float32(0)).reshape(LANES, count)
    lanes = lanes[:4] + lanes[4:]
    lanes = lanes[:2] + lanes[2:]
    return lanes[0] + lanes[1]


def product(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """`[D]` @ `[D, F]`: each sum from the first input to the last."""
    if w.shape[1] == 1:  # NumPy sums a single column in another order
        return product(x, np.repeat(w, 2, axis=1))[:1]
    return np.add.reduce(x[:, None] * w, axis=0, initial=np.float32(0))


def exp(x: np.ndarray) -> np.ndarray:
    """e^x, off by at most two units in the last place; held between e^-87 and e^88."""
    x = np.minimum(np.maximum(np.asarray(x, np.float32), np.float32(-87)), np.float32(88))
    n = np.rint(x * _LOG2E)
    r = x - n * _LN2_HIGH
    r = r - n * _LN2_LOW
    y = np.full_like(r, _EXP[0])
    for coefficient in _EXP[1:]:
        y = y * r + coefficient
    return y * ((n.astype(np.int32) + 127) << 23).view(np.float32)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x)."""
    return np.float32(1) / (np.float32(1) + exp(-x))


def silu(x: np.ndarray) -> np.ndarray:
    """x sigmoid(x)."""
    return x / (np.float32(1) + exp(-x))


def tanh(x: np.ndarray) -> np.ndarray:
    """1 - 2 / (e^2x + 1)."""
    return np.float32(1) - np.float32(2) / (exp(x + x) + np.float32(1))


def erf(x: np.ndarray) -> np.ndarray:
    """The error function, off by at most 2e-7 (Abramowitz and Stegun 1964, 7.1.26)."""
    a = np.abs(x)
    t = np.float32(1) / (np.float32(1) + np.float32(0.3275911) * a)
    y = np.full_like(t, np.float32(1.061405429))
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        y = y * t + np.float32(coefficient)
    return np.copysign(np.float32(1) - y * t * exp(-a * a), x)


def softmax(x: np.ndarray) -> np.ndarray:
    """e^x over its sum, of `[E]`."""
    y = exp(x - np.max(x))
    return y / total(y)


def rms_norm(x: np.ndarray, epsilon: float) -> np.ndarray:
    """x / sqrt(mean(x^2) + epsilon), of `[D]`."""
    mean = total(x * x) / np.float32(len(x))
    return x * (np.float32(1) / np.sqrt(mean + np.float32(epsilon)))


def quantize(x: np.ndarray, bits: int) -> tuple[np.ndarray, np.float32]:
    """Codes of `[D]` and their scale, the largest entry's (BitNet b1.58, eq. 3)."""
    largest = np.float32(2 ** (bits - 1) - 1)
    scale = np.maximum(np.max(np.abs(x), initial=np.float32(0)), np.float32(1e-5)) / largest
    return np.minimum(np.maximum(np.rint(x / scale), -largest - 1), largest), scale


# --- float64, for what is computed once, or of a few numbers a token -------------------------------------------------


def exp64(x: float) -> float:
    """e^x."""
    n = math.floor(x * 1.4426950408889634 + 0.5)
    r = x - n * 0.6931471803691238
    r = r - n * 1.9082149292705877e-10
    y = 1.0
    for k in range(16, 0, -1):
        y = 1.0 + y * (r / k)
    return math.ldexp(y, n)


def log64(x: float) -> float:
    """The y with e^y = x, by Newton's iteration."""
    y = (math.frexp(x)[1] - 1) * 0.6931471805599453
    for _ in range(8):
        y = y + (x * exp64(-y) - 1.0)
    return y


def cos_and_sin(turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of angles in turns, float64 `[P]`; float32."""
    turns = turns - np.floor(turns)
    quarter = np.floor(turns * 4.0 + 0.5)
    r = (turns - quarter * 0.25) * 6.283185307179586
    square = r * r
    cos, sin = np.ones_like(r), np.ones_like(r)
    for k in range(16, 0, -2):
        cos = 1.0 - cos * (square / (k * (k - 1)))
        sin = 1.0 - sin * (square / (k * (k + 1)))
    sin = sin * r
    quarter = quarter.astype(np.int64) % 4
    turned_cos = np.where(quarter == 0, cos, np.where(quarter == 1, -sin, np.where(quarter == 2, -cos, sin)))
    turned_sin = np.where(quarter == 0, sin, np.where(quarter == 1, cos, np.where(quarter == 2, -sin, -cos)))
    return turned_cos.astype(np.float32), turned_sin.astype(np.float32)
