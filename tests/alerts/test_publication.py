"""What is published is one whole set at any moment: killed writers, full disks, leftovers."""

import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import publishing
import pytest
from bounds_frames import make_bounds, make_provenance
from prometheus_client.parser import text_string_to_metric_families

from apm_analytics.alerts import publication, thresholds
from apm_analytics.foundation.errors import ApmError, BadParameter, NotFound

KILLS = 6
TESTS = Path(__file__).resolve().parents[1] / "support"

# Publishes set after set, as the nightly does, from the line "go" on.
PUBLISHER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
import publishing
from bounds_frames import make_bounds, make_provenance
from apm_analytics.alerts import publication, thresholds

out, specs = Path(sys.argv[1]), Path(sys.argv[2])
bounds = make_bounds([("shop", "GET /a"), ("shop", "GET /b" + "b" * 1000)])


def cycle(run_id, size=2_000_000):
    release = publication.begin(out, run_id)
    page = f"<p>{run_id}</p>" + "x" * size + f"<p>{run_id}</p>"
    publication.write_atomic(release / "report.html", page.encode())
    frame = thresholds.thresholds(bounds, make_provenance(run_id))
    publishing.publish(frame, release, specs)
    publication.promote(release, out)
    print(run_id, flush=True)
"""
FOREVER = """
start = int(sys.stdin.readline())
for number in range(start, start + 1000):
    cycle(f"run-{number:06d}")
"""
# No file may grow beyond the limit: the copy of the old set, the report or the .prom breaks off.
FULL_DISK = """
import resource
from apm_analytics.foundation.errors import ApmError

cycle("run-000001", 0)
now = (out / "published" / "prometheus" / "apm_thresholds.prom").stat().st_size
for limit, size in ((1_000, 0), (now, 2 * now), (now, 0)):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        cycle("run-000002-longer", size)
    except ApmError as error:
        print(error)
"""

# Kills itself at the n-th step that touches the disk, for every n until one cycle gets through.
# Forked, not started, so that it takes a second and not a minute.
STEPPER = """
import os, signal, sys
from pathlib import Path
from apm_analytics.alerts import publication

out = Path(sys.argv[1])
TOUCHING = {"open", "os.rename", "os.symlink", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


def cycle(run_id):
    release = publication.begin(out, run_id)
    for name in ("report.html", "prometheus/rules/a.yml"):
        publication.write_atomic(release / name, run_id.encode())
    publication.promote(release, out)


def whole():
    texts = {file.read_text() for file in (out / "published").rglob("*") if file.is_file()}
    assert len(texts) == 1, texts
    for kept in (out / "releases").iterdir():
        if kept.suffix not in (".partial", ".gone"):
            found = sorted(file.name for file in kept.rglob("*") if file.is_file())
            assert found == ["a.yml", "report.html"], (kept, found)
    return texts.pop()


publication.KEPT_RELEASES = 2  # so that each cycle removes one, too
for number in range(3):
    cycle(f"run-000000-{number}")
for step in range(1, 1000):
    before = whole()
    child = os.fork()
    if not child:
        left = step
        def count(event, _):
            global left
            if event in TOUCHING:
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(count)
        cycle(f"run-{step:06d}-0")
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    after = whole()
    assert after in (before, f"run-{step:06d}-0"), (before, after)
    if status == 0:
        assert after == f"run-{step:06d}-0"
        print(step - 1)
        break
    cycle(f"run-{step:06d}-1")
    assert whole() == f"run-{step:06d}-1"
    left_over = [e.name for e in (out / "releases").iterdir() if e.suffix in (".partial", ".gone")]
    assert not left_over and not list(out.glob(".published.*")), left_over
"""


def fill(release: Path, text: str) -> None:
    (release / "report.html").write_text(text)


def published_run(out: Path) -> str:
    """Check that everything published is whole and of one run; return its id."""
    folder = out / "published"
    runs = set(pl.read_parquet(folder / "thresholds.parquet")["run_id"])
    page = (folder / "report.html").read_text()
    assert page.startswith("<p>") and page.endswith("</p>")
    runs |= set(re.findall(r"<p>(.*?)</p>", page))
    text = (folder / "prometheus" / "apm_thresholds.prom").read_text()
    for family in text_string_to_metric_families(text):
        if family.name == "apm_baseline_info":
            runs |= {sample.labels["run_id"] for sample in family.samples}
        if family.name == "apm_baseline_upper":
            assert len(family.samples) == 2 * 3 * 168
    generated = sorted((folder / "prometheus").rglob("*.yml"))
    names = ["apm_slo.yml", "apm_thresholds.yml"]
    tests = ["apm_slo_test.yml", "apm_thresholds_test.yml", "apm_week_test.yml"]
    assert [file.name for file in generated] == [*names, *tests]
    for file in generated:
        runs |= set(re.findall(r'^# run_id: "(.*)"$', file.read_text(), re.MULTILINE))
    assert len(runs) == 1, runs
    return str(runs.pop())


def test_begin_opens_an_empty_release_and_promote_publishes_it(tmp_path: Path) -> None:
    assert publication.current(tmp_path) is None
    release = publication.begin(tmp_path, "r1")
    assert release == tmp_path / "releases" / "r1.partial" and not list(release.iterdir())
    fill(release, "one")
    assert publication.current(tmp_path) is None
    assert publication.promote(release, tmp_path) == tmp_path / "releases" / "r1"
    assert publication.current(tmp_path) == tmp_path / "releases" / "r1"
    assert os.readlink(tmp_path / "published") == "releases/r1"


def test_a_release_starts_as_a_copy_that_cannot_reach_into_the_published_one(
    tmp_path: Path,
) -> None:
    first = publication.begin(tmp_path, "r1")
    (first / "notebooks").mkdir()
    (first / "notebooks" / "a.ipynb").write_text("old")
    fill(first, "one")
    publication.promote(first, tmp_path)
    second = publication.begin(tmp_path, "r2")
    assert (second / "notebooks" / "a.ipynb").read_text() == "old"
    with (second / "report.html").open("r+") as opened:  # in place, as a careless writer would
        opened.write("two")
    assert (tmp_path / "published" / "report.html").read_text() == "one"
    publication.promote(second, tmp_path)
    assert (tmp_path / "published" / "report.html").read_text() == "two"
    assert (tmp_path / "releases" / "r1" / "report.html").read_text() == "one"


def test_the_folder_may_be_moved_as_a_whole(tmp_path: Path) -> None:
    release = publication.begin(tmp_path / "here", "r1")
    fill(release, "one")
    publication.promote(release, tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert (tmp_path / "there" / "published" / "report.html").read_text() == "one"


def test_the_newest_fourteen_releases_stay(tmp_path: Path) -> None:
    for number in range(17):
        release = publication.begin(tmp_path, f"r{number:02d}")
        fill(release, str(number))
        publication.promote(release, tmp_path)
    kept = sorted(entry.name for entry in (tmp_path / "releases").iterdir())
    assert kept == [f"r{number:02d}" for number in range(3, 17)]


def test_a_release_published_with_an_older_name_survives_its_own_pruning(tmp_path: Path) -> None:
    for number in (*range(1, 16), 0):  # the clock was set back for the last one
        release = publication.begin(tmp_path, f"r{number:02d}")
        fill(release, str(number))
        publication.promote(release, tmp_path)
    assert (tmp_path / "published" / "report.html").read_text() == "0"


@pytest.mark.parametrize("run_id", ["", "../x", "a/b", ".hidden", "r1.partial", "r1.gone", "a b"])
def test_a_run_id_that_is_no_plain_name_is_refused(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(BadParameter, match="run id"):
        publication.begin(tmp_path, run_id)


def test_a_release_is_never_written_twice(tmp_path: Path) -> None:
    release = publication.begin(tmp_path, "r1")
    fill(release, "one")
    publication.promote(release, tmp_path)
    with pytest.raises(ApmError, match="published already"):
        publication.begin(tmp_path, "r1")
    with pytest.raises(NotFound, match="no open release"):
        publication.promote(release, tmp_path)


def test_what_is_no_open_release_of_this_folder_or_is_empty_cannot_be_promoted(
    tmp_path: Path,
) -> None:
    other = publication.begin(tmp_path / "other", "r1")
    fill(other, "one")
    publication.begin(tmp_path / "out", "r2")
    with pytest.raises(NotFound, match="no open release of"):
        publication.promote(other, tmp_path / "out")
    with pytest.raises(NotFound, match="is empty"):
        publication.promote(publication.begin(tmp_path / "out", "r3"), tmp_path / "out")


def test_a_folder_in_the_way_of_the_link_is_an_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "mine.txt").write_text("keep")
    release = publication.begin(tmp_path, "r1")
    fill(release, "one")
    with pytest.raises(ApmError, match=r"cannot write .*[Dd]irectory"):
        publication.promote(release, tmp_path)
    assert (tmp_path / "published" / "mine.txt").read_text() == "keep"
    assert [entry.name for entry in (tmp_path / "releases").iterdir()] == ["r1.partial"]


def test_thresholds_that_were_swapped_in_half_way_are_never_promoted(tmp_path: Path) -> None:
    release = publication.begin(tmp_path, "r1")
    fill(release, "one")
    (release / publication.SWAPPING).mkdir()
    with pytest.raises(ApmError, match="interrupted half-way"):
        publication.promote(release, tmp_path)
    assert publication.current(tmp_path) is None


def test_thresholds_that_were_interrupted_before_that_do_not_hold_up_the_rest(
    tmp_path: Path,
) -> None:
    release = publication.begin(tmp_path, "r1")
    fill(release, "one")
    (release / publication.STAGING / "prometheus").mkdir(parents=True)
    publication.promote(release, tmp_path)
    assert [entry.name for entry in (tmp_path / "published").iterdir()] == ["report.html"]


def test_kill_9_at_every_step_leaves_a_whole_set_and_the_next_run_clears_up(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", STEPPER, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 30, "steps of one cycle at which it was killed"


def publisher(script: str, out: Path, specs: Path, path: str) -> subprocess.Popen[str]:
    """Start a Python that imports everything and then waits for its first line."""
    return subprocess.Popen(
        [sys.executable, "-c", script, str(out), str(specs), str(TESTS)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PATH": path},
    )


def hit(own: subprocess.Popen[str], out: Path, kill: int, moments: random.Random) -> str:
    """Kill a publisher after some time; return the release that was certainly published."""
    assert own.stdin and own.stdout
    own.stdin.write(f"{1000 * kill}\n")
    own.stdin.flush()
    if kill < KILLS - 2:
        first = own.stdout.readline().strip()
        assert first.startswith("run-"), "the publisher failed"
        time.sleep(moments.uniform(0, 0.5))
        return first
    while not list((out / "releases").glob(f"run-{1000 * kill:06d}.partial/.pub*")):
        assert own.poll() is None, "the publisher failed"
        time.sleep(0.01)
    time.sleep(moments.uniform(0, 1))
    return ""


def test_kill_9_at_random_moments_of_publishing_leaves_a_whole_set_of_one_run(
    tmp_path: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, specs = tmp_path / "out", workspace / "specs"
    moments = random.Random(7)
    # The last ones run promtool (if installed), so that some are killed while it runs.
    paths = [str(tmp_path)] * (KILLS - 2) + [os.environ["PATH"]] * 2
    following = publisher(PUBLISHER + FOREVER, out, specs, paths[0])
    before, interrupted = "", 0
    for kill in range(KILLS):
        own = following
        if kill + 1 < KILLS:  # imports its modules while this one is killed
            following = publisher(PUBLISHER + FOREVER, out, specs, paths[kill + 1])
        with own:
            try:
                first = hit(own, out, kill, moments)
            finally:
                own.kill()
        now = published_run(out)
        assert now >= max(first, before)
        before = now
        interrupted += any((out / "releases").glob("*.partial"))
    assert interrupted >= KILLS / 2, "kills that hit a set half-way"
    monkeypatch.setenv("PATH", str(tmp_path))

    release = publication.begin(out, "run-999999")
    assert [entry.name for entry in (out / "releases").glob("*.partial")] == ["run-999999.partial"]
    publication.write_atomic(release / "report.html", b"<p>run-999999</p>")
    bounds = make_bounds([("shop", "GET /a"), ("shop", "GET /b")])
    frame = thresholds.thresholds(bounds, make_provenance("run-999999"))
    publishing.publish(frame, release, specs)
    publication.promote(release, out)
    assert published_run(out) == "run-999999"


def test_a_full_disk_leaves_the_previous_set_and_says_so(tmp_path: Path, workspace: Path) -> None:
    out = tmp_path / "out"
    with publisher(PUBLISHER + FULL_DISK, out, workspace / "specs", str(tmp_path)) as own:
        said = own.communicate()[0].splitlines()
    assert own.returncode == 0, said
    assert said[0] == "run-000001" and len(said) == 4, said
    for line in said[1:]:
        assert re.fullmatch(
            r"cannot write .*File too large.* \([\d,]+ MB free\); what was published before stays "
            r"as it was\. Free space or fix the permissions, then run `apm nightly` again",
            line,
        )
    broken = [re.findall(r"\.partial(?:/(.*?))?: ", line)[0] for line in said[1:]]
    assert broken == ["", "report.html", ".publishing/prometheus/apm_thresholds.prom"]
    assert published_run(out) == "run-000001"
    assert not list((out / "releases").rglob("*.tmp"))
