"""Kalman filter and smoother against one big Gaussian over all states and observations."""

from dataclasses import replace

import pytest
import torch
from statsmodels.tsa.statespace.kalman_filter import KalmanFilter

from amortized.priors.state_space.sensor_fusion import SensorFusion
from amortized.sampling.filters.extended_kalman import (
    NonlinearGaussianModel,
    extended_kalman_filter,
)
from amortized.sampling.filters.kalman import LinearGaussianModel, kalman_filter
from amortized.sampling.filters.kalman_smoother import kalman_smoother

N_SERIES, N_STEPS = 3, 7
EYE = torch.eye(2, dtype=torch.float64)


def random_model(n_state=3, n_observed=2, batch=(), seed=0, dtype=torch.float64, start=None):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape, batch=batch):
        return torch.randn(*batch, *shape, generator=generator, dtype=dtype)

    def cov(n, batch=batch):
        factor = draw(n, n, batch=batch)
        return factor @ factor.mT / n + 0.1 * torch.eye(n, dtype=dtype)

    k, m, start = n_state, n_observed, batch if start is None else start
    return LinearGaussianModel(
        transition=0.9 * torch.linalg.qr(draw(k, k)).Q,
        transition_cov=cov(k),
        observation=draw(m, k),
        observation_cov=cov(m),
        initial_mean=draw(k, batch=start),
        initial_cov=cov(k, batch=start),
        transition_offset=draw(k),
        observation_offset=draw(m),
    )


def singular_noise():
    """Process noise of rank 2 in 4 dimensions."""
    motion = SensorFusion(dtype=torch.float64).motion()
    return replace(motion, observation_cov=0.1 * torch.eye(2, dtype=torch.float64))


def constant_level():
    """No process noise and a singular start: the predicted covariance has rank 1 of 2."""
    eye = torch.eye(2, dtype=torch.float64)
    ones = torch.ones(2, 2, dtype=torch.float64)
    return LinearGaussianModel(eye, 0 * eye, eye, eye, 0 * eye[0], ones)


def batched_vectors():
    one, many = random_model(), random_model(batch=(N_SERIES,), seed=1)
    return replace(
        one,
        initial_mean=many.initial_mean,
        transition_offset=many.transition_offset,
        observation_offset=many.observation_offset,
    )


MODELS = {
    "shared": random_model,
    "no offsets": lambda: replace(random_model(), transition_offset=None, observation_offset=None),
    "one per series": lambda: random_model(batch=(N_SERIES,)),
    "only vectors differ": batched_vectors,
    "only R differs": lambda: replace(
        random_model(), observation_cov=random_model(batch=(N_SERIES,), seed=2).observation_cov
    ),
    "more seen than hidden": lambda: random_model(2, 4),
    "noise of rank 2": singular_noise,
    "singular prediction": constant_level,
}


def nothing(y):
    return y


def anything(y):
    gone = torch.rand(y.shape, generator=torch.Generator().manual_seed(3)) < 0.3
    gone[:, -1] = True  # a forecast
    return y.masked_fill(gone, torch.nan)


def same_in_all(y):
    gone = torch.zeros(y.shape, dtype=torch.bool)
    gone[:, 2], gone[:, 4, 0] = True, True
    return y.masked_fill(gone, torch.nan)


each_model = pytest.mark.parametrize("model", [m() for m in MODELS.values()], ids=list(MODELS))
each_pattern = pytest.mark.parametrize("missing", [nothing, anything, same_in_all])


def of_series(model, i):
    """The model of one series."""
    single = {}
    for name, shape in model._shapes().items():
        value = getattr(model, name)
        leading = 0 if value is None else value.ndim - len(shape)
        if leading == 1:
            value = value[i]
        elif leading == 2 and len(value) > 1:
            value = value[i : i + 1]
        single[name] = value
    return LinearGaussianModel(**single)


def joint(model, n_steps):
    """Mean and covariance of (x_0, ..., x_T-1), and of all y given all x."""
    m, k = model.observation.shape[-2:]

    def each(name, *shape):
        value = getattr(model, name)
        value = torch.zeros(shape, dtype=torch.float64) if value is None else value
        return value[0] if value.ndim > len(shape) else value.expand(n_steps, *shape)

    a, q = each("transition", k, k), each("transition_cov", k, k)
    b, d = each("transition_offset", k), each("observation_offset", m)
    means, cov = [model.initial_mean], torch.zeros(n_steps * k, n_steps * k, dtype=a.dtype)
    cov[:k, :k] = model.initial_cov
    for t in range(1, n_steps):
        means.append(a[t] @ means[-1] + b[t])
        past, now = slice(0, t * k), slice(t * k, (t + 1) * k)
        before = slice((t - 1) * k, t * k)
        cov[now, past] = a[t] @ cov[before, past]
        cov[past, now] = cov[now, past].T
        cov[now, now] = a[t] @ cov[before, before] @ a[t].T + q[t]
    h = torch.block_diag(*each("observation", m, k))
    r = torch.block_diag(*each("observation_cov", m, m))
    return torch.cat(means), cov, h, d.flatten(), r


def oracle(model, y, until):
    """Mean, covariance of all states and log density, given the entries seen before ``until``."""
    mean, cov, h, d, r = joint(model, len(y))
    seen = ~y.isnan()
    seen[until:] = False
    seen = seen.flatten()
    if not seen.any():
        return mean, cov, torch.zeros((), dtype=mean.dtype)
    h, d, r, y = h[seen], d[seen], r[seen][:, seen], y.flatten()[seen]
    law = torch.distributions.MultivariateNormal(h @ mean + d, h @ cov @ h.T + r)
    gain = torch.linalg.solve(law.covariance_matrix, h @ cov).T
    return mean + gain @ (y - law.mean), cov - gain @ h @ cov, law.log_prob(y)


def as_nonlinear(model, **change):
    """A linear model as the extended filter takes it."""
    b, d = model.transition_offset, model.observation_offset
    parts = {
        "transition": lambda x, t: x @ model.transition.mT + (0.0 if b is None else b),
        "transition_cov": model.transition_cov,
        "observation": lambda x, t: x @ model.observation.mT + (0.0 if d is None else d),
        "observation_cov": lambda x, t: model.observation_cov,
        "initial_mean": model.initial_mean,
        "initial_cov": model.initial_cov,
    }
    return NonlinearGaussianModel(**(parts | change))


@each_model
@each_pattern
def test_filter_equals_joint_gaussian(model, missing):
    y = missing(model.simulate(N_SERIES, N_STEPS, seed=0)[1])
    filtered, k = kalman_filter(model, y), model.transition.shape[-1]
    assert filtered.valid.all()
    for i in range(N_SERIES):
        single, before = of_series(model, i), 0.0
        for t in range(N_STEPS):
            mean, cov, log_density = oracle(single, y[i], until=t + 1)
            now = slice(t * k, (t + 1) * k)
            torch.testing.assert_close(filtered.mean[i, t], mean[now])
            torch.testing.assert_close(filtered.cov[i, t], cov[now, now], atol=1e-12, rtol=1e-7)
            torch.testing.assert_close(filtered.log_likelihood[i, t], log_density - before)
            before = log_density
        torch.testing.assert_close(filtered.log_evidence[i], log_density)


@each_model
@each_pattern
def test_smoother_equals_joint_gaussian(model, missing):
    y = missing(model.simulate(N_SERIES, N_STEPS, seed=0)[1])
    smoothed, k = kalman_smoother(model, y), model.transition.shape[-1]
    for i in range(N_SERIES):
        mean, cov, log_density = oracle(of_series(model, i), y[i], until=N_STEPS)
        torch.testing.assert_close(smoothed.mean[i].flatten(), mean)
        torch.testing.assert_close(smoothed.log_evidence[i], log_density)
        for t in range(N_STEPS):
            now = slice(t * k, (t + 1) * k)
            torch.testing.assert_close(smoothed.cov[i, t], cov[now, now], atol=1e-12, rtol=1e-7)


CHANGING = {
    "one for all": (1, None),
    "one a series": (N_SERIES, None),
    "transitions alone": (1, ("transition", "transition_cov")),
    "offsets alone": (N_SERIES, ("transition_offset", "observation_offset")),
}


@pytest.mark.parametrize(("n_models", "names"), CHANGING.values(), ids=CHANGING)
@each_pattern
def test_matrices_that_change_with_time(n_models, names, missing):
    """The joint Gaussian is that of the matrices of each step, at draws of the same model."""
    changing = random_model(batch=(n_models, N_STEPS), seed=4, start=())
    if names is not None:
        values = {name: getattr(changing, name) for name in names}
        changing = replace(random_model(), **values)
    y = missing(changing.simulate(N_SERIES, N_STEPS, seed=0)[1])
    filtered, smoothed = kalman_filter(changing, y), kalman_smoother(changing, y)
    for i in range(N_SERIES):
        single = of_series(changing, i)
        mean, cov, log_density = oracle(single, y[i], until=N_STEPS)
        torch.testing.assert_close(filtered.log_evidence[i], log_density)
        torch.testing.assert_close(smoothed.mean[i].flatten(), mean)
        blocks = cov.unflatten(0, (N_STEPS, -1)).unflatten(2, (N_STEPS, -1))
        own = blocks.diagonal(dim1=0, dim2=2).movedim(-1, 0)
        torch.testing.assert_close(smoothed.cov[i], own, atol=1e-12, rtol=1e-7)
        early = oracle(single, y[i], until=3)[0].unflatten(0, (N_STEPS, -1))[2]
        torch.testing.assert_close(filtered.mean[i, 2], early)


def test_draws_of_matrices_that_change_with_time():
    changing = random_model(batch=(1, N_STEPS), seed=4, start=())
    n = 20_000
    y = changing.simulate(n, N_STEPS, seed=0)[1].flatten(1)
    mean, cov, h, d, r = joint(changing, N_STEPS)
    law = torch.distributions.MultivariateNormal(h @ mean + d, h @ cov @ h.T + r)
    white = torch.linalg.solve_triangular(law.scale_tril, (y - law.mean).T, upper=False)
    assert (white.mean(1).abs() < 5 / n**0.5).all()
    identity = torch.eye(len(white), dtype=white.dtype)
    assert ((white @ white.T / n - identity).abs() < 6 / n**0.5 * (1 + identity)).all()


def test_many_models_on_one_series():
    models = random_model(batch=(5,))
    y = models.simulate(5, N_STEPS, seed=0)[1][:1]
    together = kalman_filter(models, y).log_evidence
    apart = [kalman_filter(of_series(models, i), y).log_evidence[0] for i in range(5)]
    torch.testing.assert_close(together, torch.stack(apart))


def test_stopping_the_riccati_recursion_changes_nothing():
    model = singular_noise()
    y = model.simulate(4, 400, seed=0)[1]
    stopped = kalman_filter(model, y)
    full = kalman_filter(replace(model, initial_cov=model.initial_cov.clone().requires_grad_()), y)
    assert stopped.cov[0, 399].equal(stopped.cov[0, 398])
    torch.testing.assert_close(stopped.mean, full.mean.detach(), atol=1e-11, rtol=0)
    torch.testing.assert_close(stopped.log_evidence, full.log_evidence.detach())


def dense(matrix):
    return torch.tensor(matrix, dtype=torch.float64)


def beside(dtype=torch.float64, **change):
    """A pressure in Pa beside a temperature in K, both seen by sensors of their own precision."""
    parts = {
        "transition": dense([[0.9, 0.0], [0.0, 0.5]]),
        "transition_cov": dense([[1e6, 0.0], [0.0, 1e-4]]),
        "observation": dense([[1.0, 0.0], [0.0, 1.0]]),
        "observation_cov": dense([[1e4, 0.0], [0.0, 1e-2]]),
        "initial_mean": dense([101_325.0, 293.0]),
        "initial_cov": dense([[1e9, 0.0], [0.0, 4.0]]),
        "transition_offset": dense([10_132.5, 146.5]),
    }
    return LinearGaussianModel(**{n: v.to(dtype) for n, v in (parts | change).items()})


SCALES = {
    "unseen and wide beside seen": LinearGaussianModel(
        dense([[1.0, 0.0], [0.0, 1.0]]),
        dense([[0.0, 0.0], [0.0, 0.0]]),
        dense([[1.0, 0.0]]),
        dense([[1.0]]),
        dense([0.0, 0.0]),
        dense([[1.0, 0.0], [0.0, 1e6]]),
    ),
    "pressure beside temperature": beside(),
    "slow temperature": beside(transition_cov=dense([[1e6, 0.0], [0.0, 1e-8]])),
    "constant temperature": beside(
        transition=dense([[0.9, 0.0], [0.0, 1.0]]),
        transition_cov=dense([[1e6, 0.0], [0.0, 0.0]]),
        transition_offset=dense([10_132.5, 0.0]),
    ),
    "coupled": beside(
        transition=dense([[0.9, 30.0], [1e-6, 0.7]]), initial_cov=dense([[1e9, 3e4], [3e4, 4.0]])
    ),
    "a difference known far better": LinearGaussianModel(
        dense([[1.0, 0.0], [0.0, 1.0]]),
        dense([[0.0, 0.0], [0.0, 0.0]]),
        dense([[1.0, -1.0]]),
        dense([[1.0]]),
        dense([0.0, 0.0]),
        dense([[1e6, 0.0], [0.0, 1e6]]),
    ),
    "precise after a diffuse start": beside(
        observation_cov=dense([[1e-2, 0.0], [0.0, 1e-6]]),
        initial_cov=dense([[1e8, 0.0], [0.0, 1e4]]),
    ),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("model", SCALES.values(), ids=SCALES)
def test_states_of_different_scales_equal_the_joint_gaussian(model, dtype):
    """Over 120 steps, in which each state's covariance converges at its own time, or never."""
    n_steps = 120
    y = model.simulate(1, n_steps, seed=0)[1]
    mean, cov, log_density = oracle(model, y[0], until=n_steps)
    sd = cov.diagonal().sqrt().reshape(n_steps, 2)
    values = {name: getattr(model, name) for name in model._shapes()}
    rough = LinearGaussianModel(
        **{name: value.to(dtype) for name, value in values.items() if value is not None}
    )
    filtered = kalman_filter(rough, y.to(dtype))
    smoothed = kalman_smoother(rough, y.to(dtype))
    nonlinear = extended_kalman_filter(as_nonlinear(rough), y.to(dtype))
    exact = dtype == torch.float64
    # float32 rounds the data and the means themselves, of 1e5 to the hundredth.
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if exact else {"rtol": 1e-3, "atol": 0.5}
    for answer in (filtered, smoothed, nonlinear):
        assert answer.valid.all()
        torch.testing.assert_close(answer.log_evidence[0].double(), log_density, **tolerance)
        found = answer.cov[0, -1].double().diagonal().sqrt()
        torch.testing.assert_close(found, sd[-1], rtol=1e-6 if exact else 1e-4, atol=0)
        off = (answer.mean[0, -1].double() - mean.reshape(n_steps, 2)[-1]) / sd[-1]
        assert off.abs().max() < (1e-6 if exact else 0.2)
    widths = smoothed.cov[0].double().diagonal(dim1=-2, dim2=-1).sqrt()
    torch.testing.assert_close(widths, sd, rtol=1e-5 if exact else 1e-3, atol=0)


def test_draws_of_different_scales_have_their_covariance():
    wide = LinearGaussianModel(
        *(EYE, 0 * EYE, EYE, EYE, 0 * EYE[0], torch.diag(dense([1e12, 1e-6])))
    )
    for dtype in (torch.float64, torch.float32):
        model = LinearGaussianModel(
            **{n: v.to(dtype) for n in wide._shapes() if (v := getattr(wide, n)) is not None}
        )
        draws = model.sample_initial((1, 20_000), torch.Generator().manual_seed(0))[0].double()
        torch.testing.assert_close(draws.std(0), dense([1e6, 1e-3]), rtol=0.03, atol=0)


def test_long_series_run_in_blocks():
    model = random_model()
    y = model.simulate(2000, 40, seed=0)[1]  # several blocks for many series, one for few
    torch.testing.assert_close(kalman_filter(model, y).mean[:3], kalman_filter(model, y[:3]).mean)


@pytest.mark.parametrize("missing", [nothing, anything])
def test_float32_keeps_up_with_float64(missing):
    """A diffuse start and precise sensors, over 2,000 steps."""
    exact = replace(
        singular_noise(),
        initial_cov=1e4 * torch.eye(4, dtype=torch.float64),
        observation_cov=1e-3 * torch.eye(2, dtype=torch.float64),
    )
    rough = LinearGaussianModel(
        **{n: v.float() for n in exact._shapes() if (v := getattr(exact, n)) is not None}
    )
    y = missing(exact.simulate(2, 2000, seed=0)[1])
    for method in (kalman_filter, kalman_smoother):
        want, got = method(exact, y), method(rough, y.float())
        sd = want.cov.diagonal(dim1=-2, dim2=-1).sqrt()
        assert got.valid.all()
        assert ((got.mean - want.mean).abs() / sd).max() < 0.05
        assert ((got.cov.diagonal(dim1=-2, dim2=-1).sqrt() / sd) - 1).abs().max() < 0.02
        assert torch.linalg.eigvalsh(got.cov).min() > -1e-6
        torch.testing.assert_close(got.log_evidence.double(), want.log_evidence, rtol=1e-3, atol=0)


@pytest.mark.parametrize("missing", [nothing, anything])
def test_gradient_of_the_evidence(missing):
    y = missing(random_model().simulate(2, 5, seed=0)[1])
    base = random_model()

    def log_evidence(log_q, angle, start):
        scale = log_q.exp() * torch.eye(3, dtype=torch.float64)
        model = replace(
            base,
            transition=angle * base.transition,
            transition_cov=scale,
            initial_mean=start,
        )
        return kalman_filter(model, y).log_evidence.sum()

    inputs = [torch.tensor(v, dtype=torch.float64).requires_grad_() for v in (-1.0, 0.8, [1.0] * 3)]
    assert torch.autograd.gradcheck(log_evidence, inputs)
    log_qs = torch.linspace(-2, 0, 4, dtype=torch.float64)
    angle, start = inputs[1].detach(), inputs[2].detach()
    if missing is nothing:  # the gradient of a density for many parameters at once
        batched = torch.func.vmap(torch.func.grad(log_evidence), (0, None, None))(
            log_qs, angle, start
        )
        apart = [torch.func.grad(log_evidence)(q, angle, start) for q in log_qs]
        torch.testing.assert_close(batched, torch.stack(apart))


def test_equals_statsmodels():
    model = singular_noise()
    y = model.simulate(3, 200, seed=0)[1]
    ours = kalman_filter(model, y)
    for i in range(3):
        theirs = KalmanFilter(k_endog=2, k_states=4)
        theirs.tolerance = 0  # theirs stops its recursion too early for 1e-8
        theirs["design"], theirs["obs_cov"] = model.observation.numpy(), model.observation_cov
        theirs["transition"], theirs["state_cov"] = model.transition.numpy(), model.transition_cov
        theirs["selection"] = torch.eye(4).numpy()
        theirs.initialize_known(model.initial_mean.numpy(), model.initial_cov.numpy())
        theirs.bind(y[i].numpy().copy())
        result = theirs.filter()
        assert abs(result.llf - ours.log_evidence[i].item()) < 1e-8
        assert abs(result.filtered_state.T - ours.mean[i].numpy()).max() < 1e-8


def test_an_observation_without_density_is_flagged():
    model = constant_level()
    exact = replace(model, observation_cov=torch.zeros(2, 2, dtype=torch.float64))
    filtered = kalman_filter(exact, torch.zeros(1, 3, 2, dtype=torch.float64))
    assert not filtered.valid.any()
    assert filtered.log_evidence.item() == -torch.inf
    smoothed = kalman_smoother(exact, torch.zeros(1, 3, 2, dtype=torch.float64))
    assert not smoothed.valid.any() and smoothed.log_evidence.item() == -torch.inf


def test_one_bad_model_leaves_the_others_alone():
    many = random_model(batch=(3,))
    r = many.observation_cov.clone()
    h = many.observation.clone()
    r[1], h[1] = 0, 0
    y = many.simulate(3, N_STEPS, seed=0)[1]
    filtered = kalman_filter(replace(many, observation_cov=r, observation=h), y)
    assert filtered.valid.tolist() == [True, False, True]
    good = kalman_filter(many, y)
    torch.testing.assert_close(filtered.mean[[0, 2]], good.mean[[0, 2]])


Y = torch.zeros(N_SERIES, N_STEPS, 2, dtype=torch.float64)
WRONG_DATA = {
    "two dimensions": (Y[0], r"Expected y of shape \(batch, time, 2\).*y\[None, :, None\]"),
    "too many observed": (torch.zeros(3, 7, 5).double(), "Expected y of shape"),
    "no steps": (Y[:, :0], "at least one step"),
    "float32": (Y.float(), "Expected y of the model's dtype torch.float64; got torch.float32"),
    "infinite": (Y + torch.inf, "finite, or NaN where missing"),
}


@pytest.mark.parametrize(("y", "message"), WRONG_DATA.values(), ids=list(WRONG_DATA))
@pytest.mark.parametrize("method", [kalman_filter, kalman_smoother])
def test_wrong_data(no_shape_checks, method, y, message):
    with pytest.raises(ValueError, match=message):
        method(random_model(), y)


def test_wrong_number_of_series():
    with pytest.raises(ValueError, match="one series or with 4, as many as there are models"):
        kalman_filter(random_model(batch=(4,)), Y)


def test_wrong_number_of_steps():
    with pytest.raises(ValueError, match="y of 4 steps, as many as the model has matrices for"):
        kalman_filter(random_model(batch=(1, 4), start=()), Y)


WRONG_MODELS = {
    "a factor for a covariance": (
        {"transition_cov": EYE + torch.tensor([[0.0, 0.0], [0.5, 0.0]])},
        "transition_cov to be finite, symmetric.*not its Cholesky factor",
    ),
    "negative": ({"observation_cov": -EYE}, "observation_cov to be finite, symmetric and positive"),
    "asymmetric beside a large scale": (
        {"initial_cov": torch.tensor([[1e12, 5e2], [-5e2, 1.0]])},
        "initial_cov to be finite, symmetric",
    ),
    "a negative variance beside a large one": (
        {"initial_cov": torch.tensor([[1e10, 0.0], [0.0, -1e-3]])},
        "initial_cov to be finite, symmetric and positive",
    ),
    "correlation above one": (
        {"observation_cov": torch.tensor([[1e8, 1.2e4], [1.2e4, 1.0]])},
        "observation_cov to be finite, symmetric and positive",
    ),
    "covariance beside no variance": (
        {"observation_cov": torch.tensor([[1e8, 1e-3], [1e-3, 0.0]])},
        "observation_cov to be finite, symmetric and positive",
    ),
    "nan": ({"initial_cov": torch.nan * EYE}, "initial_cov to be finite"),
    "shape": ({"transition": EYE[:1]}, r"Expected transition of shape \(2, 2\).*got \(1, 2\)"),
    "vector": ({"observation": EYE[0]}, r"Expected observation \(observed, state\); got \(2,\)"),
    "a start that changes with time": (
        {"initial_cov": EYE.expand(1, 5, 2, 2)},
        r"initial_cov of shape \(2, 2\), or with one batch dimension before it, as",
    ),
    "numbers of steps": (
        {"transition": EYE.expand(1, 5, 2, 2), "transition_offset": EYE[0].expand(1, 4, 2)},
        r"equal numbers of steps in all tensors; got \[4, 5\]",
    ),
    "batches over time": (
        {"transition": EYE.expand(3, 5, 2, 2), "initial_mean": EYE[0].expand(4, 2)},
        r"one batch size in all tensors; got \[3, 4\]",
    ),
    "batches": (
        {"transition": EYE.expand(3, 2, 2), "initial_mean": EYE[0].expand(4, 2)},
        r"one batch size in all tensors; got \[3, 4\]",
    ),
}


@pytest.mark.parametrize(("change", "message"), WRONG_MODELS.values(), ids=list(WRONG_MODELS))
def test_wrong_models(no_shape_checks, change, message):
    with pytest.raises(ValueError, match=message):
        replace(constant_level(), **change)


@pytest.mark.parametrize("method", [kalman_filter, kalman_smoother])
def test_infinite_numbers_are_not_valid(method):
    """Also where no observation follows that would show it."""
    one = torch.ones(1, 1)
    growing = LinearGaussianModel(
        torch.tensor([[[1.0]], [[-torch.inf]]]), one, one, one, torch.zeros(1), one
    )
    y = torch.tensor([[[0.3], [torch.nan]]]).expand(2, -1, -1)
    found = method(growing, y)
    assert found.valid.tolist() == [True, False]
    assert found.log_evidence[0].isfinite() and found.log_evidence[1] == -torch.inf
