"""What a place in each code must cost for demand to meet capacity: the duals of the assignment problem.

The dual of entropic optimal transport (Cuturi 2013), annealed (Schmitzer 2019), with inequality instead of
equality on the codes: a price is never below 0, so a code with room to spare is free and pulls nobody. It is
maximised by L-BFGS-B: on 60 skewed cases of 300 to 512 items and exact capacity, Sinkhorn's own fixed-point
steps left the rounded assignment 6 to 13 % over the optimum after 20 rounds per temperature, and L-BFGS-B 0.2
% in the same time.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

HOT, WARM, COLD = 1.0, 1 / 64, 1 / 4096
COOLING = 4
STEPS, LAST_STEPS = 50, 15


def settle_prices(
    cost_NT: NDArray[np.float32],
    code_NT: NDArray[np.int32],
    capacity_K: NDArray[np.float64],
    price_K: NDArray[np.float64],
    heat: float,
) -> NDArray[np.float64]:
    """Prices (K,) under which soft demand for each code is at most about its capacity.

    `cost_NT` are squared distances of N items to the candidate codes `code_NT`; `price_K` is where to start.
    The temperature falls from `heat` to COLD, both in units of the mean gap between an item's candidates.
    """
    gap = float(np.mean(cost_NT.mean(axis=1, dtype=np.float64) - cost_NT.min(axis=1))) if cost_NT.size else 0.0
    if gap <= 0:
        return price_K
    items = len(cost_NT)
    share_K = capacity_K / min(items, capacity_K.sum())
    scaled_NT = cost_NT / np.float32(gap)
    flat_code = code_NT.ravel()
    # Where candidate lists leave some code too much demand at any price, the dual has no maximum.
    highest = float(scaled_NT.max())
    price = np.minimum(price_K / gap, highest)

    def loss_and_slope(price: NDArray[np.float64], heat: float) -> tuple[float, NDArray[np.float64]]:
        part_NT = scaled_NT + price.astype(np.float32)[code_NT]
        least_N = part_NT.min(axis=1, keepdims=True)
        part_NT -= least_N
        part_NT *= np.float32(-1 / heat)
        np.exp(part_NT, out=part_NT)
        total_N = part_NT.sum(axis=1, keepdims=True)
        part_NT /= total_N
        demand_K = np.bincount(flat_code, part_NT.ravel(), minlength=len(price))
        soft_least = least_N.mean(dtype=np.float64) - heat * np.log(total_N).mean(dtype=np.float64)
        return float(share_K @ price - soft_least), share_K - demand_K / items

    while heat >= COLD:
        bounds = np.tile([0, highest], (len(price), 1))
        options = {"maxiter": STEPS if heat > COLD else LAST_STEPS, "maxcor": 20}
        found = minimize(loss_and_slope, price, (heat,), "L-BFGS-B", jac=True, bounds=bounds, options=options)
        price = found.x
        heat /= COOLING
    return np.asarray(price * gap, dtype=np.float64)
