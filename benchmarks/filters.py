"""Filters beside their peers: many series in one call against one series after the other.

    python benchmarks/filters.py

Needs the peers. particles asks for an older numpy and runs with a new one all the same:
    pip install statsmodels filterpy numba && pip install --no-deps particles

Everything runs in one thread. Times are medians, of a whole batch for us; peers that take one
series at a time are timed on some of them and scaled. A peer's compilation is not counted.
"""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[name] = "1"  # before the libraries look

import statistics  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import replace  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402

from amortized.priors.state_space.sensor_fusion import SensorFusion  # noqa: E402
from amortized.priors.state_space.stochastic_volatility import StochasticVolatility  # noqa: E402
from amortized.sampling.filters.kalman import LinearGaussianModel, kalman_filter  # noqa: E402
from amortized.sampling.filters.kalman_smoother import kalman_smoother  # noqa: E402
from amortized.sampling.filters.particle_filter import particle_filter  # noqa: E402

N_SERIES, N_STEPS, N_PARTICLES = 1000, 200, 1000


def seconds(run: Callable[[], Any], repeats: int) -> float:
    """Median time of a call, after one that is not counted."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def row(*cells: str) -> None:
    """One row of the table."""
    print("| " + " | ".join(cells) + " |", flush=True)


def with_statsmodels(arrays: dict[str, np.ndarray], y: np.ndarray, tolerance: float) -> Any:
    """One series; a new object each, for one that is bound again returns the old series."""
    from statsmodels.tsa.statespace.kalman_filter import KalmanFilter

    model = KalmanFilter(k_endog=y.shape[1], k_states=4)
    model.tolerance = tolerance
    model["design"], model["obs_cov"] = arrays["observation"], arrays["observation_cov"]
    model["transition"], model["state_cov"] = arrays["transition"], arrays["transition_cov"]
    model["selection"] = np.eye(4)
    model.initialize_known(arrays["initial_mean"], arrays["initial_cov"])
    model.bind(y)
    return model.filter()


def with_filterpy(arrays: dict[str, np.ndarray], y: np.ndarray, evidence: bool) -> float:
    """One series; its log evidence, which takes most of the time, or only the states."""
    from filterpy.kalman import KalmanFilter

    model = KalmanFilter(dim_x=4, dim_z=y.shape[1])
    model.F, model.Q = arrays["transition"], arrays["transition_cov"]
    model.H, model.R = arrays["observation"], arrays["observation_cov"]
    model.x, model.P = arrays["initial_mean"].copy(), arrays["initial_cov"].copy()
    total = 0.0
    for now in y:
        model.update(now)
        total += model.log_likelihood if evidence else 0.0
        model.predict()
    return total


def kalman_table() -> None:
    """1,000 series of 200 steps with 4 states: a target in the plane, seen in noise."""
    motion = SensorFusion(dtype=torch.float64).motion()
    model = replace(motion, observation_cov=0.1 * torch.eye(2, dtype=torch.float64))
    y = model.simulate(N_SERIES, N_STEPS, seed=0)[1]
    names = [name for name in model._shapes() if getattr(model, name) is not None]
    arrays = {name: getattr(model, name).numpy().copy() for name in names}
    rows, exact = y.numpy().copy(), kalman_filter(model, y)

    def error(log_evidence: list[float]) -> str:
        ours = exact.log_evidence[: len(log_evidence)].numpy()
        return f"{np.abs(ours - np.array(log_evidence)).max():.0e}"

    print(f"\nKalman filter, {N_SERIES:,} series x {N_STEPS} steps x 4 states\n")
    row("method", "ms for all", "times ours", "evidence differs by")
    row(*["---"] * 4)
    ours = seconds(lambda: kalman_filter(model, y), 21)
    row("ours, float64", f"{1e3 * ours:.1f}", "1", "")
    rough = LinearGaussianModel(**{name: getattr(model, name).float() for name in names})
    quick = seconds(lambda: kalman_filter(rough, y.float()), 21)
    off = (kalman_filter(rough, y.float()).log_evidence - exact.log_evidence).abs().max()
    row("ours, float32", f"{1e3 * quick:.1f}", f"{quick / ours:.1f}", f"{off:.0e}")
    some = range(100)
    for label, tolerance in (("statsmodels", 1e-19), ("statsmodels, tolerance 0", 0.0)):
        run = lambda tol=tolerance: [with_statsmodels(arrays, rows[i], tol).llf for i in some]  # noqa: E731
        theirs = seconds(run, 3) * N_SERIES / len(some)
        row(label, f"{1e3 * theirs:.0f}", f"{theirs / ours:.0f}", error(run()))
    for label, evidence in (("filterpy, states only", False), ("filterpy, with evidence", True)):
        run = lambda e=evidence: [with_filterpy(arrays, rows[i], e) for i in some[:20]]  # noqa: E731
        theirs = seconds(run, 3) * N_SERIES / 20
        off = error(run()) if evidence else ""
        row(label, f"{1e3 * theirs:.0f}", f"{theirs / ours:.0f}", off)
    result = with_statsmodels(arrays, rows[0], 0.0)
    print(
        "\nlargest difference from statsmodels: means "
        f"{np.abs(result.filtered_state.T - exact.mean[0].numpy()).max():.0e}, covariances "
        f"{np.abs(result.filtered_state_cov.transpose(2, 0, 1) - exact.cov[0].numpy()).max():.0e}"
    )
    smoother = seconds(lambda: kalman_smoother(model, y), 5)
    gaps = y.masked_fill(torch.rand(y.shape) < 0.1, torch.nan)
    missing = seconds(lambda: kalman_filter(model, gaps), 3)
    print(f"smoother {1e3 * smoother:.0f} ms; filter with 10% missing at random {missing:.2f} s")


def particle_table() -> None:
    """Stochastic volatility, 200 returns, bootstrap filters with 1,000 particles."""
    import particles
    from particles import state_space_models as peer

    values = (-1.0, 0.95, 0.2)
    y = StochasticVolatility(*torch.tensor(values)).simulate(1, N_STEPS, seed=0)[1]
    theirs = peer.StochVol(mu=values[0], rho=values[1], sigma=values[2])
    data = [np.array([value]) for value in y[0, :, 0].double().numpy()]

    def run_peer() -> float:
        feynman_kac = peer.Bootstrap(ssm=theirs, data=data)
        filtered = particles.SMC(fk=feynman_kac, N=N_PARTICLES, resampling="systematic")
        filtered.run()
        return filtered.logLt

    print(f"\nBootstrap filter, {N_PARTICLES:,} particles, {N_STEPS} steps\n")
    row("method", "ms a series", "speed", "log evidence", "its sd")
    row(*["---"] * 5)
    alone = seconds(run_peer, 20)
    estimates = np.array([run_peer() for _ in range(60)])
    row("particles", f"{1e3 * alone:.1f}", "1", *summary(estimates))
    for dtype in (torch.float32, torch.float64):
        model = StochasticVolatility(*torch.tensor(values, dtype=dtype))
        for n_series, moments in ((1, False), (100, False), (100, True), (300, False)):
            rows = y.to(dtype).expand(n_series, -1, -1)
            run = lambda r=rows, m=moments: particle_filter(model, r, N_PARTICLES, moments=m)  # noqa: B023, E731
            time_each = seconds(run, 20 if n_series == 1 else 5) / n_series
            many = particle_filter(model, y.to(dtype).expand(300, -1, -1), N_PARTICLES, seed=1)
            label = f"ours, {str(dtype)[6:]}, {n_series} series" + ", moments" * moments
            speed = f"{alone / time_each:.1f}"
            row(label, f"{1e3 * time_each:.2f}", speed, *summary(many.log_evidence.numpy()))


def summary(log_evidence: np.ndarray) -> tuple[str, str]:
    """Log of the mean evidence with its standard error, and the sd of one estimate."""
    ratio = np.exp(log_evidence - log_evidence.mean())
    centre = log_evidence.mean() + np.log(ratio.mean())
    error = ratio.std() / ratio.mean() / np.sqrt(len(ratio))
    return f"{centre:.3f} +- {error:.3f}", f"{log_evidence.std():.3f}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    kalman_table()
    particle_table()
