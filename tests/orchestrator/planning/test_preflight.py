"""What trials would not find is said before anything starts."""

import sys

import pytest

from meanflow_core.errors import ConfigError
from orchestrator.cli.main import run
from orchestrator.planning.plan import make_plan, render_plan
from orchestrator.planning.preflight import demand_ready, demand_storage, missing_here
from orchestrator.planning.programs import broken_files
from orchestrator.spec.sweep import read_spec
from orchestrator.worker import storage

SWEEP = """\
base: {data: {name: image_folder, path: pictures}, evaluation: {features: net.pt}}
method: random
run_cap: 2
metric: {name: eval/fid_1nfe}
parameters: {optimizer.lr: {min: 0.1, max: 0.2}}
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "sweep.yaml"
    file.write_text(SWEEP)
    return file


def test_a_plan_lists_what_is_missing_and_a_run_is_refused(sweep, capsys):
    spec = read_spec(sweep)
    missing = missing_here(spec)
    assert [(problem.key, problem.file) for problem in missing] == [
        ("data.path", str(sweep)),
        ("evaluation.features", str(sweep)),
    ]
    assert render_plan(make_plan(spec, missing=missing)).count("missing here: ") == 2
    assert run(["run", str(sweep), "--inline"]) == 2
    assert "2 problems; nothing was started" in capsys.readouterr().err
    assert not (sweep.parent / "meansweep-data").exists()


def test_each_value_that_is_varied_is_looked_for(sweep):
    (sweep.parent / "net.pt").touch()
    (sweep.parent / "there").mkdir()
    words = ["set={}", "parameters.data.path={values: [there, gone]}"]
    (problem,) = missing_here(read_spec(sweep, words))
    assert problem.value == "gone"


def test_a_plan_says_which_images_belong_to_no_class(sweep, capsys):
    from PIL import Image

    for name in ("cats/1.png", "dogs/2.png", "cover.png", "readme.txt"):
        file = sweep.parent / "pictures" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(file) if file.suffix == ".png" else file.touch()
    run(["plan", str(sweep)])
    told = " ".join(capsys.readouterr().out.split())
    assert "1 image lies beside the sub-folders, belongs to no class and is left out (cover.png)" in told
    (sweep.parent / "pictures" / "cover.png").unlink()
    run(["plan", str(sweep)])
    assert "beside" not in capsys.readouterr().out


def test_an_unknown_metric_is_refused_with_the_nearest(tmp_path):
    words = ["evaluation.metrics=[fid, acuracy]", "data.name=digits"]
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(
        SWEEP.replace("{data: {name: image_folder, path: pictures}, evaluation: {features: net.pt}}", "{}")
    )
    with pytest.raises(ConfigError) as caught:
        demand_ready(read_spec(sweep, words))
    assert [problem.nearest for problem in caught.value.problems] == ["accuracy"]


def test_a_trainer_is_looked_for_by_its_module_and_its_class(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_trainer_of_a_test.py").write_text("class Trainer: ...\n")
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(SWEEP.replace(SWEEP.splitlines()[0], "trainer: gone.away:Trainer\nset: {trainer.steps: 3}"))
    assert [problem.key for problem in missing_here(read_spec(sweep))] == ["trainer"]
    spec = read_spec(sweep, ["trainer=own_trainer_of_a_test:Trainr"])
    assert missing_here(spec) == []
    with pytest.raises(ConfigError, match="did you mean 'Trainer'"):
        demand_ready(spec)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("class Trainer:\n    def train(self, steps): ...\n", "has no evaluate, state_dict, load_state_dict"),
        ("import sys\nclass Trainer: ...\nsys.exit(0)\n", r"calls sys.exit\(0\) as it is imported"),
        ("import no_such_module_here\n", "No module named 'no_such_module_here'"),
        ("def Trainer(config): ...\n", None),  # what it returns is seen when it is called
    ],
)
def test_a_trainer_that_cannot_train_is_told_before_a_trial_starts(tmp_path, monkeypatch, code, said):
    monkeypatch.syspath_prepend(tmp_path)
    module = f"own_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(code)
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(SWEEP.replace(SWEEP.splitlines()[0], f"trainer: {module}:Trainer\nset: {{trainer.steps: 3}}"))
    if said is None:
        demand_ready(read_spec(sweep))
        return
    with pytest.raises(ConfigError, match=said):
        demand_ready(read_spec(sweep))


def test_a_machine_without_a_compiler_is_told_before_a_compiled_training(sweep, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CC", raising=False)
    plain = {problem.key for problem in missing_here(read_spec(sweep))}
    compiled = missing_here(read_spec(sweep, ["set.trainer.compile=true"]))
    assert {problem.key for problem in compiled} - plain == {"trainer.compile"}
    assert "needs a C compiler" in next(p.rule for p in compiled if p.key == "trainer.compile")


def test_a_store_that_takes_no_checkpoint_is_told_by_plan_and_refused_by_run(sweep, monkeypatch, capsys):
    sweep.write_text("base: {}\n" + SWEEP.partition("\n")[2])
    monkeypatch.setenv("MEANSWEEP_STORAGE", "s3:/typo")
    assert run(["plan", str(sweep)]) == 1
    assert "s3:/typo is no URL" in " ".join(capsys.readouterr().out.split())
    for command in (["run", str(sweep), "--inline"], ["run", str(sweep)]):
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
        assert run(command) == 2
        assert "s3:/typo is no URL" in capsys.readouterr().err
    assert not (sweep.parent / "s3:").exists()
    monkeypatch.setenv("MEANSWEEP_STORAGE", "nosuch://bucket/place")
    assert run(["plan", str(sweep)]) == 1
    assert "nosuch" in capsys.readouterr().out
    monkeypatch.setenv("MEANSWEEP_STORAGE", "gs://bucket/place")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    assert run(["plan", str(sweep)]) == 1
    assert "install gcsfs" in capsys.readouterr().out.lower()


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A sweep of one trial of one step, in a home of its own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody is there: nothing is waited for
    file = tmp_path / "small.yaml"
    file.write_text(
        "trainer: tests.orchestrator.toy_trainers:Toy\nmethod: random\nrun_cap: 1\nmetric: {name: eval/score}\n"
        "parameters: {toy.x: {min: 0.0, max: 1.0}}\nset: {trainer.steps: 1, trainer.eval_every: 1}\n"
    )
    return file


def waiting(monkeypatch, then=None):
    """Return the waits of what asks a store again; none is slept, and after the second `then` happens."""
    clock, naps = [0.0], []

    def nap(seconds):
        naps.append(seconds)
        clock[0] += seconds
        if len(naps) == 2 and then is not None:
            then()

    options = {**storage._patiently.__kwdefaults__, "sleep": nap, "clock": lambda: clock[0]}
    monkeypatch.setattr(storage._patiently, "__kwdefaults__", options)
    return naps


@pytest.mark.parametrize("address", [None, "auto"])
def test_a_start_waits_for_a_store_that_is_away_for_a_moment_and_a_plan_does_not(
    small, bucket, monkeypatch, capsys, address
):
    bucket.stop()
    naps = waiting(monkeypatch)
    assert run(["plan", str(small)]) == 1
    assert "MEANSWEEP_STORAGE" in capsys.readouterr().out
    assert naps == []
    naps = waiting(monkeypatch, then=bucket.start)
    if address:  # of a cluster the store alone is looked at
        monkeypatch.setenv("RAY_ADDRESS", address)
        demand_storage(print)
        told = capsys.readouterr().out
    else:
        assert run(["run", str(small), "--inline", "--home", str(small.parent)]) == 0
        told = capsys.readouterr().err
    assert naps == [0.5, 1.0]
    assert told.count("waiting for the store of checkpoints, at most 120 s") == 1
    assert "no bucket" not in told


def test_a_store_that_stays_away_ends_a_start_with_what_to_type_then(small, bucket, monkeypatch, capsys):
    command = ["--inline", "--home", str(small.parent)]
    assert run(["run", str(small), *command]) == 0
    assert run(["extend", "1", "small", "--home", str(small.parent)]) == 0
    bucket.stop()
    for words, said in (
        (["run", str(small), "--name", "other"], "nothing was started, and the same command starts it"),
        (["resume", "small"], "nothing is lost. Go on with: meansweep resume small"),
    ):
        naps = waiting(monkeypatch)
        capsys.readouterr()
        assert run([*words, *command]) == 1
        assert said in capsys.readouterr().err
        assert 105 < sum(naps) <= 120
    assert not (small.parent / "sweeps" / "other").exists()
    bucket.start()
    assert run(["resume", "small", *command]) == 0


def test_a_start_does_not_wait_for_what_no_wait_cures(small, bucket, monkeypatch, capsys):
    import s3fs
    from botocore.exceptions import NoCredentialsError

    naps = waiting(monkeypatch)
    words = ["run", str(small), "--inline", "--home", str(small.parent)]
    monkeypatch.setenv("MEANSWEEP_STORAGE", "s3://typo/sweeps")
    assert run(words) == 2
    assert "no bucket 'typo'" in capsys.readouterr().err
    monkeypatch.setenv("MEANSWEEP_STORAGE", bucket.url)
    for error in (PermissionError("SignatureDoesNotMatch"), NoCredentialsError()):

        def refuse(*args, error=error, **options):
            raise error

        monkeypatch.setattr(s3fs.S3FileSystem, "pipe_file", refuse)
        s3fs.S3FileSystem.clear_instance_cache()  # one that is there has its own
        assert run(words) == 2
        assert str(error) in capsys.readouterr().err
    monkeypatch.setenv("MEANSWEEP_STORAGE", "nosuch://bucket/place")
    assert run(words) == 2
    assert "Protocol not known: nosuch" in capsys.readouterr().err
    assert naps == []
    assert not (small.parent / "sweeps").exists()


@pytest.mark.parametrize("broken", ["own_trainer.py", "own_helper.py"])
def test_a_trainer_with_a_mistake_in_its_syntax_is_told_before_anything_starts(sweep, monkeypatch, capsys, broken):
    monkeypatch.syspath_prepend(sweep.parent)
    texts = {"own_trainer.py": "import own_helper\nclass T: ...\n", "own_helper.py": "x = 1\n"}
    for name, text in texts.items():
        (sweep.parent / name).write_text(text + ("def broken(:\n" if name == broken else ""))
    sweep.write_text(
        "trainer: own_trainer:T\nmethod: random\nrun_cap: 1\nmetric: {name: loss}\n"
        "parameters: {x: {min: 0.0, max: 1.0}}\nset: {trainer.steps: 2}\n"
    )
    assert run(["plan", str(sweep)]) == 1
    assert "cannot be imported: SyntaxError" in " ".join(capsys.readouterr().out.split())
    assert run(["run", str(sweep), "--inline"]) == 2
    assert broken in capsys.readouterr().err


def test_a_file_is_looked_at_again_once_it_has_changed(tmp_path):
    file, found = tmp_path / "train.py", []
    for text in ("x = (1", "x = 1", "x = )"):  # the last two are equally long
        file.write_text(text)
        found.append([problem.rule for problem in broken_files("program", "train.py", [file, tmp_path / "no.csv"])])
    (first,), second, (third,) = found
    assert first.startswith("does not compile: SyntaxError: '(' was never closed")
    assert second == []
    assert third.startswith("does not compile: SyntaxError: unmatched ')'")
