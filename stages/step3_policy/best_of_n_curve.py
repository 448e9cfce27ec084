"""What best-of-n earns, for every n up to N, from the same N samples a prompt.

Dimension letters: P prompts, N samples.
"""

import math

import numpy as np


def best_of_n_kl(n: int) -> float:
    """KL(best-of-n || policy) in nats: log n - (n-1)/n, exact where no two rewards are equal."""
    return math.log(n) - (n - 1) / n


def best_of_n_mean(proxy: np.ndarray, values: np.ndarray, n: int) -> float:
    """Mean over prompts of what the sample with the best proxy of n is worth in `values`.

    proxy, values: (P, N). Unbiased: the mean over all subsets of n of the N samples (Nakano et al.
    2021, WebGPT). Equal proxies keep the order of sampling, which is random.
    """
    order = np.argsort(proxy, axis=1, kind="stable")
    ascending = np.take_along_axis(values, order, axis=1)
    return float((ascending @ best_of_n_weights(values.shape[1], n)).mean())


def best_of_n_weights(num_samples: int, n: int) -> np.ndarray:
    """(N,) the chance C(i-1, n-1) / C(N, n) that the i-th smallest of N is the best of n drawn."""
    subsets = math.comb(num_samples, n)
    ranks = range(1, num_samples + 1)
    return np.array([math.comb(rank - 1, n - 1) / subsets for rank in ranks])
