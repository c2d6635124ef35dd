"""A small lasso, solved exactly by an active set.

In:  a positive definite matrix, a target and a penalty.
Out: the minimum of x'Mx / 2 - target'x + penalty |x|.
"""

import math

import numpy as np

from apm_analytics.baselines.models.series import Floats, Ints
from apm_analytics.foundation.compiled import compiled_loop

# A pivot this small relative to its diagonal means collinear columns.
PIVOT_FLOOR = 1e-13
# Violations of the optimality conditions below this share of the penalty are rounding errors.
TOLERANCE = 1e-9
MAX_STEPS = 500


@compiled_loop
def lasso(matrix: Floats, target: Floats, penalty: float, x: Floats) -> None:
    """Minimise x'Mx / 2 - target'x + penalty |x| from a warm start, in place.

    Active set by signs: solve for the active coordinates with their signs fixed; move towards
    the solution until the first coordinate would cross zero, and remove it from the set; when
    none does, add the coordinate that violates optimality most. Every step lowers the objective.
    """
    size = x.shape[0]
    sign = np.sign(x)
    active = np.empty(size, np.int64)
    solution = np.empty(size)
    factor = np.empty((size, size))
    newest = -1
    for _ in range(MAX_STEPS):
        n = 0
        for j in range(size):
            if sign[j] != 0.0:
                active[n] = j
                n += 1
        _solve_active(matrix, target, penalty, sign, active[:n], factor, solution)
        share = 1.0
        leaves = -1
        for a in range(n):
            j = active[a]
            if solution[a] * sign[j] <= 0.0:
                reach = x[j] / (x[j] - solution[a]) if x[j] != solution[a] else 0.0
                if leaves < 0 or reach < share:
                    share = reach
                    leaves = j
        for a in range(n):
            x[active[a]] += share * (solution[a] - x[active[a]])
        if leaves >= 0:
            x[leaves] = 0.0
            sign[leaves] = 0.0
            # Added and removed again: only rounding errors are left.
            if leaves == newest and share == 0.0:
                return
            if share > 0.0:
                newest = -1
            continue
        newest = -1
        worst = penalty * (1.0 + TOLERANCE)
        pull = 0.0
        for j in range(size):
            if sign[j] == 0.0:
                s = target[j]
                for a in range(n):
                    s -= matrix[j, active[a]] * x[active[a]]
                if abs(s) > worst:
                    worst = abs(s)
                    newest = j
                    pull = s
        if newest < 0:
            return
        sign[newest] = 1.0 if pull > 0.0 else -1.0


@compiled_loop
def _solve_active(
    matrix: Floats,
    target: Floats,
    penalty: float,
    sign: Floats,
    active: Ints,
    factor: Floats,
    solution: Floats,
) -> None:
    """Solve matrix[active, active] @ solution = (target - penalty sign)[active] by Cholesky."""
    n = active.shape[0]
    for a in range(n):
        i = active[a]
        for b in range(a + 1):
            s = matrix[i, active[b]]
            for q in range(b):
                s -= factor[a, q] * factor[b, q]
            if a == b:
                factor[a, a] = math.sqrt(max(s, PIVOT_FLOOR * matrix[i, i] + 1e-300))
            else:
                factor[a, b] = s / factor[b, b]
    for a in range(n):
        s = target[active[a]] - penalty * sign[active[a]]
        for q in range(a):
            s -= factor[a, q] * solution[q]
        solution[a] = s / factor[a, a]
    for a in range(n - 1, -1, -1):
        s = solution[a]
        for q in range(a + 1, n):
            s -= factor[q, a] * solution[q]
        solution[a] = s / factor[a, a]
