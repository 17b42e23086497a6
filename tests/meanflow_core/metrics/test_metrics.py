"""The evaluator: features, references, records."""

import hashlib
import itertools
import json
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from torch import nn

from meanflow_core.config import DigitsConfig, EvaluationConfig, MnistConfig, Toy2dConfig
from meanflow_core.data.base import ArrayImages
from meanflow_core.data.build import build_dataset
from meanflow_core.errors import ConfigError
from meanflow_core.metrics import floor
from meanflow_core.metrics import reference as reference_module
from meanflow_core.metrics.build import METRICS, build_evaluator, default_metrics
from meanflow_core.metrics.digits_classifier import WEIGHTS, DigitsClassifier, classifier_record, load_digits_classifier
from meanflow_core.metrics.features import Coordinates, DigitsFeatures, load_features
from meanflow_core.metrics.frechet import frechet_distance, moments_of
from meanflow_core.metrics.reference import Spread, cache_folder, read_moments, reference_of


@pytest.fixture(scope="module")
def digits():
    return build_dataset(DigitsConfig())


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MEANSWEEP_CACHE", str(tmp_path / "cache"))


def images(rows=40, seed=0):
    """A small colour data set without features of its own."""
    pixels = torch.randint(0, 256, (rows, 3, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return ArrayImages("small", pixels, None, pixels[:9] // 2, None, num_classes=None)


# --------------------------------------------------------------------------------------- the classifier


@pytest.mark.parametrize(("name", "config"), [("digits", DigitsConfig()), ("mnist", MnistConfig())])
def test_the_shipped_classifiers_know_held_out_digits(name, config):
    data = build_dataset(config)
    x, labels = data.held_out()
    accuracy = (load_digits_classifier(name)(x).argmax(1) == labels).double().mean().item()
    record = classifier_record(name)
    assert accuracy >= 0.97
    assert accuracy == pytest.approx(record["held_out_accuracy"], abs=0.004)
    assert record["data_fingerprint"] == data.fingerprint
    assert record["sha256"] == hashlib.sha256(WEIGHTS[name].read_bytes()).hexdigest()


def test_accuracy_is_the_share_of_samples_with_the_label_asked_for(digits):
    x, labels = digits.held_out()
    evaluator = build_evaluator(EvaluationConfig(metrics=["accuracy"]), digits)
    wrong = labels.clone()
    wrong[:200] = (wrong[:200] + 1) % 10
    right = evaluator.evaluate(x, labels)["accuracy"]
    assert evaluator.evaluate(x, wrong)["accuracy"] == pytest.approx(right - 200 / 599, abs=0.005)


def test_features_are_the_penultimate_layer_of_rows_cut_off_at_the_data_s_range(digits):
    space, net = DigitsFeatures(), load_digits_classifier()
    x = 1.5 * digits.held_out()[0][:300]
    torch.testing.assert_close(space(x), net.features(x.clamp(-1, 1)))
    assert space(x).shape == (300, 64)
    assert torch.equal(space.classify(space(x)), net(x.clamp(-1, 1)).argmax(1))
    assert DigitsClassifier()(x).shape == (300, 10)


# -------------------------------------------------------------------------- the distance of digits, judged


@pytest.fixture(scope="module")
def judge(digits):
    evaluator = build_evaluator(EvaluationConfig(metrics=["fid"]), digits)
    return lambda x: evaluator.evaluate(x, None)["fid"]


@pytest.fixture(scope="module")
def real(digits):
    return digits.batch(torch.arange(len(digits)), generator=torch.Generator())[0]


def test_real_digits_score_near_the_floor_and_noise_a_hundred_times_that(judge, real):
    assert judge(real) < 2
    assert judge(torch.randn(1000, 1, 8, 8, generator=torch.Generator().manual_seed(0))) > 100


@pytest.mark.parametrize("damage", ["noise", "mean", "blend", "blur"])
def test_the_distance_grows_with_every_kind_of_damage(judge, real, damage):
    generator = torch.Generator().manual_seed(1)
    blurred = nn.functional.avg_pool2d(nn.functional.pad(real, (1, 1, 1, 1), value=-1.0), 3, stride=1)
    towards = {
        "noise": real + torch.randn(real.shape, generator=generator),
        "mean": real.mean(0, keepdim=True).expand_as(real),
        "blend": real[torch.randperm(len(real), generator=generator)],
        "blur": blurred,
    }[damage]
    values = [judge((1 - share) * real + share * towards) for share in (0.0, 0.2, 0.35, 0.5)]
    assert all(later > 1.5 * earlier for earlier, later in itertools.pairwise(values[1:]))
    assert values[1] > 1.2 * values[0]


def test_the_distance_sees_missing_classes_and_repeated_rows(judge, digits, real):
    _, labels = digits.batch(torch.arange(len(digits)), generator=torch.Generator())
    whole = judge(real)
    assert judge(real[labels > 0]) > 4 * whole
    assert judge(real[torch.arange(1000) % 50]) > 4 * whole


def test_the_floor_is_what_a_copier_of_training_rows_scores(digits, judge, real):
    found = floor.floor_of(EvaluationConfig(metrics=["fid", "accuracy"]), digits)
    assert found["fid"] == pytest.approx(judge(real), rel=1e-9)
    halves = floor.halves(digits, splits=3)
    assert 0.3 < halves["low"] <= halves["mean"] <= halves["high"] < 2
    assert halves["rows"] == 898


def test_the_floor_command_prints_json_and_names_mistakes(capsys):
    assert floor.main(["evaluation.metrics=[fid]"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"real_rows", "fid_of_halves"}
    assert floor.main(["data.name=cifar10", "data.path=/nowhere"]) == 2
    assert "data.path" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------ the evaluator


def test_each_data_set_has_its_metrics(digits):
    assert default_metrics(digits) == ["fid", "accuracy"]
    assert default_metrics(build_dataset(Toy2dConfig(rows=9))) == ["wasserstein", "sliced_wasserstein", "mmd"]
    assert default_metrics(images()) == ["sliced_wasserstein", "mmd"]
    assert default_metrics(images(), "features.pt") == ["fid"]


def test_every_metric_is_finite_and_better_for_real_rows_than_for_noise(digits, real):
    evaluator = build_evaluator(EvaluationConfig(metrics=list(METRICS)), digits)
    _, labels = digits.batch(torch.arange(len(digits)), generator=torch.Generator())
    good = evaluator.evaluate(real, labels)
    bad = evaluator.evaluate(torch.randn(real.shape, generator=torch.Generator().manual_seed(0)), labels)
    assert list(good) == list(METRICS)
    for name in METRICS:
        larger_is_better = name in ("accuracy", "precision", "recall")
        assert (good[name] > bad[name]) == larger_is_better, name


def test_points_are_compared_as_they_are():
    data = build_dataset(Toy2dConfig(law="moons", rows=2000))
    evaluator = build_evaluator(EvaluationConfig(), data)
    x, labels = data.batch(torch.arange(2000), generator=torch.Generator())
    near, far = evaluator.evaluate(x, labels), evaluator.evaluate(x + 1, labels)
    assert near["wasserstein"] < 0.1
    assert far["wasserstein"] == pytest.approx(2**0.5, abs=0.05)
    assert far["sliced_wasserstein"] == pytest.approx(1, abs=0.15)
    assert near["mmd"] < 0.01 < far["mmd"]


def test_the_record_says_what_a_figure_must_be_read_with(digits):
    record = build_evaluator(EvaluationConfig(samples=500, labels="random"), digits).record()
    assert record["samples"] == 500
    assert record["labels"] == "random"
    assert record["metrics"] == ["fid", "accuracy"]
    assert record["features"].startswith("digits-classifier:")
    assert (record["reference"], record["reference_count"]) == ("599 held-out rows", 599)
    assert record["data_fingerprint"] == digits.fingerprint
    assert json.loads(json.dumps(record)) == record
    unlabelled = build_evaluator(EvaluationConfig(), build_dataset(Toy2dConfig(law="spiral", rows=9)))
    assert unlabelled.record()["labels"] is None


def test_an_evaluator_travels_as_a_pickle(digits, real):
    evaluator = build_evaluator(EvaluationConfig(metrics=["fid", "recall"]), digits)
    again = pickle.loads(pickle.dumps(evaluator))
    assert again.evaluate(real, None) == evaluator.evaluate(real, None)


def test_unknown_metrics_are_all_named_with_the_nearest(digits):
    with pytest.raises(ConfigError) as caught:
        build_evaluator(EvaluationConfig(metrics=["fdi", "accuracy", "recal"]), digits)
    assert [(p.value, p.nearest) for p in caught.value.problems] == [("fdi", "fid"), ("recal", "recall")]


def test_accuracy_without_a_classifier_is_refused():
    data = build_dataset(Toy2dConfig(law="moons", rows=9))
    with pytest.raises(ConfigError, match="accuracy needs labelled data"):
        build_evaluator(EvaluationConfig(metrics=["accuracy"]), data)


# ----------------------------------------------------------------------------------------------- features


class Pooled(nn.Module):
    """Twelve features of an image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


def make_pooled():
    return Pooled()


def make_wrong():
    return lambda x: x


def make_nothing():
    return None


def test_a_function_s_network_gives_the_features():
    data = images()
    space = load_features(f"{__name__}:make_pooled", data)
    x = torch.cat(list(data.reference()))
    assert torch.equal(space(x), Pooled()(x))
    assert pickle.loads(pickle.dumps(space)).identity == space.identity
    assert build_evaluator(EvaluationConfig(features=f"{__name__}:make_pooled"), data).evaluate(x, None)[
        "fid"
    ] == pytest.approx(0, abs=1e-9)


def test_the_pixels_themselves_can_be_the_features():
    data = images()
    x = torch.cat(list(data.reference()))
    config = EvaluationConfig(features="torch.nn:Flatten", metrics=["sliced_wasserstein", "mmd"])
    evaluator = build_evaluator(config, data)
    assert torch.equal(load_features(config.features, data)(x), x.flatten(1))
    exact, off = evaluator.evaluate(x, None), evaluator.evaluate(0.5 * x, None)
    assert exact["sliced_wasserstein"] == pytest.approx(0, abs=1e-6)
    assert off["sliced_wasserstein"] > 0.1
    assert off["mmd"] > exact["mmd"]


def test_a_torchscript_file_gives_the_features_and_travels(tmp_path):
    path = tmp_path / "pooled.pt"
    torch.jit.script(Pooled()).save(str(path))
    data = images()
    x = torch.cat(list(data.reference()))
    space = load_features(str(path), data)
    assert torch.equal(space(x), Pooled()(x))
    assert torch.equal(pickle.loads(pickle.dumps(space))(x), space(x))
    assert space.identity.startswith("torchscript:")


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        (None, "needs a feature network"),
        ("no/such/file.pt", "no such file"),
        ("inception:no/such/file.pth", "no such file; expected weights-inception"),
        ("no_such_module:make", "cannot be imported"),
        (f"{__name__}:no_such_function", "cannot be imported"),
        (f"{__name__}:make_nothing", "must return a network"),
        (f"{__name__}:make_wrong", r"must map 40 images to features \[40, d\]"),
    ],
)
def test_features_that_are_not_there_are_refused_with_what_would_do(spec, rule):
    with pytest.raises(ConfigError, match=rule):
        build_evaluator(EvaluationConfig(features=spec, metrics=["fid"]), images())


def test_a_file_that_is_no_torchscript_is_named(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ConfigError, match="is not a TorchScript file"):
        load_features(str(path), images())


class FakeInception(nn.Module):
    """As much of torch-fidelity's extractor as is used: uint8 images in, a tuple out."""

    def __init__(self, name, features_list, feature_extractor_weights_path):
        super().__init__()
        assert (name, features_list) == ("inception-v3-compat", ["2048"])
        self.seen = []

    def forward(self, x):
        assert x.dtype == torch.uint8
        self.seen.append(x)
        return (x.float().mean(dim=(2, 3)),)


@pytest.fixture
def inception(monkeypatch, tmp_path):
    module = types.SimpleNamespace(FeatureExtractorInceptionV3=FakeInception)
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", module)
    path = tmp_path / "inception.pth"
    torch.save({"weight": torch.zeros(2)}, path)
    return f"inception:{path}"


def test_inception_sees_the_pixels_of_the_files(inception):
    data = images()
    space = load_features(inception, data)
    found = space(torch.cat(list(data.reference())))
    torch.testing.assert_close(found, data._train.float().mean(dim=(2, 3)))
    assert "2048" in space.identity


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def test_inception_weights_that_would_run_code_are_refused(inception, capsys):
    torch.save({"weight": Evil()}, inception.partition(":")[2])
    with pytest.raises(ConfigError, match="does not hold plain weights"):
        load_features(inception, images())
    assert "code ran" not in capsys.readouterr().out


def test_without_torch_fidelity_the_error_says_what_to_install(inception, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ModuleNotFoundError, match="pip install torch-fidelity"):
        load_features(inception, images())


# ---------------------------------------------------------------------------------------------- reference


def test_moments_are_read_from_adm_s_file(digits, real, tmp_path):
    features = DigitsFeatures()(digits.held_out()[0])
    mu, sigma = features.double().mean(0).numpy(), np.cov(features.double().numpy().T)
    np.savez(tmp_path / "adm.npz", mu=mu, sigma=sigma, arr_0=np.zeros((2, 2), dtype=np.uint8))
    config = EvaluationConfig(metrics=["fid"], reference=str(tmp_path / "adm.npz"))
    evaluator = build_evaluator(config, digits)
    expected = build_evaluator(EvaluationConfig(metrics=["fid"]), digits).evaluate(real, None)["fid"]
    assert evaluator.evaluate(real, None)["fid"] == pytest.approx(expected, rel=1e-9)
    assert evaluator.record()["reference"].startswith("adm.npz:")
    assert evaluator.record()["reference_count"] is None


def test_a_file_of_moments_cannot_serve_other_metrics(digits, tmp_path):
    np.savez(tmp_path / "adm.npz", mu=np.zeros(64), sigma=np.eye(64))
    config = EvaluationConfig(metrics=["fid", "recall"], reference=str(tmp_path / "adm.npz"))
    with pytest.raises(ConfigError, match="moments alone, which recall"):
        build_evaluator(config, digits)


def test_a_reference_that_does_not_fit_is_refused(digits, tmp_path):
    path = tmp_path / "wrong.npz"

    def refused(rule, **arrays):
        np.savez(path, **arrays)
        with pytest.raises(ConfigError, match=rule):
            build_evaluator(EvaluationConfig(reference=str(path)), digits)

    refused("has 2048 features, but the feature network gives 64", mu=np.zeros(2048), sigma=np.eye(2048))
    refused("mu and sigma", mean=np.zeros(3))
    refused(r"mu must be \[d\]", mu=np.zeros(3), sigma=np.eye(4))
    refused("mu and sigma", mu=np.array([object()]), sigma=np.eye(1))
    path.write_bytes(b"not a zip")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_moments(str(path))
    with pytest.raises(ConfigError, match="no such file"):
        read_moments(str(tmp_path / "none.npz"))


class Counting(Coordinates):
    def __init__(self):
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return super().__call__(x)[:, :5]


def test_large_statistics_are_computed_once_and_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(reference_module, "CACHED_FROM", 40)
    monkeypatch.setattr(reference_module, "KEPT_ROWS", 11)
    data, space = images(rows=40), Counting()
    first = reference_of(data, space)
    assert space.calls == 1
    again = reference_of(data, space)
    assert space.calls == 1
    assert torch.equal(again.moments.covariance, first.moments.covariance)
    assert again.moments.count == 40
    assert again.source == first.source
    assert torch.equal(again.rows, first.rows)
    assert len(again.rows) == 11
    files = list(cache_folder().iterdir())
    assert len(files) == 1
    assert cache_folder() == tmp_path / "cache"

    files[0].write_bytes(files[0].read_bytes()[:100])  # damaged: made again
    assert torch.equal(reference_of(data, space).moments.mean, first.moments.mean)
    reference_of(images(rows=40, seed=1), space)  # other data: another file
    assert space.calls == 3
    assert len(list(cache_folder().iterdir())) == 2


@pytest.mark.parametrize("total", [1, 7, 10, 11, 25, 137])
def test_kept_rows_are_spread_over_the_whole_stream_in_no_order(total):
    stream = torch.arange(total)[:, None].float()
    found = []
    for size in (total, 1, 4):
        spread = Spread(10)
        for part in stream.split(size):
            spread.add(part)
        found.append(spread.rows())
        assert len(found[-1]) == min(10, total)
        ordered = found[-1].flatten().sort().values
        assert (ordered.diff() <= 1.7 * total / 10 + 1).all()
        assert ordered[0] == 0
        assert ordered[-1] >= total - total / 10 - 1
        assert total < 7 or not torch.equal(ordered, found[-1].flatten())
        assert len(ordered.unique()) == len(ordered)
    assert torch.equal(found[1], found[2])


def test_small_statistics_leave_no_file(digits):
    reference = reference_of(digits, DigitsFeatures())
    assert not cache_folder().exists()
    expected = moments_of(DigitsFeatures()(digits.held_out()[0]))
    assert frechet_distance(reference.moments, expected) == pytest.approx(0, abs=1e-9)


def test_the_cache_is_where_the_user_wants_it(monkeypatch, tmp_path):
    monkeypatch.delenv("MEANSWEEP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "meansweep"
