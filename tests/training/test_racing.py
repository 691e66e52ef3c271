"""A race of real trials: who stops is the same whoever trains them, and what was stopped goes on to the same bits."""

import json
import re
import time
from pathlib import Path

import yaml

from job.folder.storage import open_folder
from job.training.rungs import Seen
from races import NAMES, outcome, statuses
from support import S3, job, row


def test_a_race_stops_trials_at_both_rungs_and_says_why(raced: Path) -> None:
    ended = {name: (row(raced, name)["status"], row(raced, name)["epochs_run"]) for name in NAMES}
    # Of ten the best four and one more that is not distinguishable go on; of these five the best three.
    assert sorted(ended.values()) == [("done", 9)] * 3 + [("raced", 2)] * 5 + [("raced", 3)] * 2
    for name in (name for name in NAMES if ended[name][0] == "raced"):
        found = row(raced, name)
        record = found["race"]
        assert record["trial"] == name and record["epoch"] == found["epochs_run"] and not record["goes_on"]
        assert set(record["seen"]) == {other for other in NAMES if ended[other][1] >= record["epoch"]}
        assert f"{record['place']} of {record['num']} there" in found["cause"]
        assert record["place"] > record["num_best"] and 0 < record["p"] <= 1
        assert found["test_acc"] is None and not (raced / "trials" / name / "predictions.csv").exists()
        assert (raced / "trials" / name / "last.pt").exists()
    assert all(row(raced, name)["race"] == {} for name in NAMES if ended[name][0] == "done")


def test_a_rung_holds_the_best_epoch_so_far_and_the_images_that_it_has_right(raced: Path, never_raced: Path) -> None:
    seen = Seen(open_folder(str(raced)), print)
    seen.look(now=True)
    assert {key for key in seen.rungs if key[1] == 2} == {(name, 2) for name in NAMES}
    for (name, epoch), rung in seen.rungs.items():
        lines = (never_raced / "trials" / name / "epochs.csv").read_text().splitlines()[1:epoch + 1]
        accuracies = [float(line.split(",")[4]) for line in lines]
        assert rung and rung.best_epoch and rung.val_acc == max(accuracies) == accuracies[rung.best_epoch - 1]
        assert rung.hits is not None and rung.hits.mean() == rung.val_acc


def test_breadth_first_every_trial_is_at_a_rung_before_one_goes_beyond_it(raced: Path) -> None:
    epochs = re.findall(r"trial (\w+)(?: \(\d+ of 10\))?  epoch (\d)/9", (raced.parent / "out.txt").read_text())
    first_beyond = next(place for place, (_, epoch) in enumerate(epochs) if epoch == "3")
    assert {name for name, epoch in epochs[:first_beyond] if epoch == "2"} == set(NAMES)
    first_beyond = next(place for place, (_, epoch) in enumerate(epochs) if epoch == "4")
    assert sum(epoch == "3" for _, epoch in epochs[:first_beyond]) == 5


def test_a_trial_that_the_race_lets_finish_ends_as_if_never_raced(raced: Path, never_raced: Path) -> None:
    for name in (name for name, status in statuses(raced).items() if status == "done"):
        found = outcome(raced, name)
        assert {key: found[key] for key in found if not key.endswith(".json")} == outcome(never_raced, name), name


def test_no_race_trains_the_raced_ones_to_the_same_bits_and_the_race_begun_again_stops_nothing(
        spare_race: Path, never_raced: Path) -> None:
    done = job("sweep", "--no-race", spare_race)
    assert done.code == 0, done.err
    assert done.out.count("resumes after epoch") == 7
    for name in NAMES:
        found = outcome(spare_race, name)
        assert {key: found[key] for key in found if not key.endswith(".json")} == outcome(never_raced, name), name
        # Those, too, leave the rungs that they pass.
        assert {"0002.json", "0003.json"} <= found.keys()
        assert len([*(spare_race / "trials" / name / "events").glob("*.trialgrid")]) == 11
    assert len([*spare_race.glob("trials/*/raced-1.json")]) == 7
    again = job("sweep", spare_race)
    assert again.code == 0 and statuses(spare_race) == dict.fromkeys(NAMES, "done")


def test_a_grid_that_grows_meets_the_old_rungs_and_undoes_nothing(
        spare_race: Path, raced: Path, race_grid: Path) -> None:
    last = next(name for name in NAMES if row(raced, name)["race"].get("place") == 10)
    lr, rest = race_grid.read_text().splitlines()[int(last)].split(",", 2)[1:]
    (spare_race.parent / "more.csv").write_text(f"{race_grid.read_text()}11,{float(lr) * 1.000001},{rest}\n")
    done = job("sweep", "--grid", spare_race.parent / "more.csv", spare_race)
    assert done.code == 0, done.err
    assert row(spare_race, "11")["status"] == "raced" and len(row(spare_race, "11")["race"]["seen"]) == 11
    assert all(outcome(spare_race, name) == outcome(raced, name) for name in NAMES)


def test_a_race_cannot_begin_late(spare_sweep: Path, shapes: Path) -> None:
    for args in (("sweep", spare_sweep, "--race"), ("train", spare_sweep, "--trial", "1", "--race")):
        done = job(*args)
        assert done.code == 78 and "began without a race" in done.err, done.err
    assert not (spare_sweep / "race.json").exists()


def test_damaged_and_hostile_rungs_keep_nobody_waiting(spare_race: Path, raced: Path) -> None:
    for name in NAMES:
        (spare_race / "trials" / name / "row.json").unlink()
    rungs = [spare_race / "trials" / name / "rungs" / "0002.json" for name in NAMES]
    good = json.loads(rungs[0].read_text())
    rungs[0].write_bytes(b"{")
    rungs[1].write_text(json.dumps(good | {"right": "AAAA" * 999}))
    rungs[2].write_text(json.dumps(good | {"trial": "3", "val_acc": "high"}))
    # One that says that it is the second rung, and one that is gone, though the second one is there.
    rungs[4].write_text(json.dumps(good | {"trial": "5", "rung": 2}))
    next(path for path in (rungs[3], *rungs[5:]) if path.with_name("0003.json").exists()).unlink()
    (spare_race / "trials" / "ghost" / "rungs").mkdir(parents=True)
    (spare_race / "trials" / "ghost" / "rungs" / "0002.json").write_text(json.dumps(good | {"rung": 7}))
    done = job("sweep", spare_race)
    assert done.code == 0, done.err
    assert done.out.count("is not compared at this rung") == 4
    assert set(statuses(spare_race).values()) == {"done", "raced"}


def test_a_trajectory_races_as_its_longest_trial(shapes: Path, race_grid: Path, tmp_path: Path) -> None:
    header, *lines = race_grid.read_text().splitlines()
    shorter = [f"s{name},{line.split(',', 3)[1]},{epochs},{line.split(',', 3)[3]}" for name, line, epochs in
               ((name, line, epochs) for name, line in zip(NAMES, lines, strict=True) if "constant" in line
                for epochs in (2, 5)) for name in [f"{name}-{epochs}"]]
    (tmp_path / "more.csv").write_text("\n".join([header, *lines, *shorter]) + "\n")
    done = job("sweep", "--images", shapes, "--grid", tmp_path / "more.csv", "--race", tmp_path / "sweep")
    assert done.code == 0, done.err
    for name in NAMES[::2]:
        longest, two, five = (row(tmp_path / "sweep", trial) for trial in (name, f"s{name}-2", f"s{name}-5"))
        assert two["status"] == "done" and two["trained_by"] == name
        assert five["status"] == longest["status"] and five["race"] == longest["race"]
    assert len({row(tmp_path / "sweep", name)["status"] for name in NAMES[::2]}) == 2


def test_a_race_in_s3(raced: Path, shapes: Path, race_grid: Path, s3: S3) -> None:
    done = job("sweep", "--images", shapes, "--grid", race_grid, "--race", "s3://bucket/race", **s3.env)
    assert done.code == 0, done.err
    assert len(re.findall(r"^trial \d+  raced \(", done.out, re.MULTILINE)) == 7
    client = s3.client()
    for name in NAMES:
        for path in (raced / "trials" / name / "rungs").iterdir():
            key = f"race/trials/{name}/rungs/{path.name}"
            assert client.get_object(Bucket="bucket", Key=key)["Body"].read() == path.read_bytes()
    rerun = job("rerun", "s3://bucket/race", "--raced", "--image", "i@sha256:0", **s3.env)
    jobs = [*yaml.safe_load_all(rerun.out)]
    assert {item["metadata"]["labels"]["trialgrid/trial"] for item in jobs} == {
        name for name, status in statuses(raced).items() if status == "raced"}
    assert all(item["spec"]["template"]["spec"]["containers"][0]["args"][-1] == "--no-race" for item in jobs)
    assert job("rerun", "s3://bucket/race", "--raced", "--missing", "--image", "i", **s3.env).code == 2


def test_manifests_of_a_race_say_so_and_others_are_as_before(race_grid: Path, half_trained: str, s3: S3) -> None:
    args = ("manifests", "s3://bucket/new", "--grid", race_grid, "--image", "i@sha256:0")
    plain, raced = job(*args, **s3.env), job(*args, "--race", **s3.env)
    assert plain.code == raced.code == 0 and "--race" not in plain.out
    assert all(item["spec"]["template"]["spec"]["containers"][0]["args"][-1] == "--race"
               for item in yaml.safe_load_all(raced.out))
    late = job("manifests", half_trained, "--race", "--image", "i", **s3.env)
    assert late.code == 78 and "began without a race" in late.err and not late.out


def test_rungs_are_read_once_and_looks_keep_to_their_share(raced: Path) -> None:
    folder = open_folder(str(raced))
    seen = Seen(folder, print)
    seen.look()
    num, looked_at = len(seen.rungs), seen.looked_at
    seen.look_seconds = 1.0
    seen.look()
    assert seen.looked_at == looked_at and num == 15
    seen.looked_at = time.monotonic() - 60
    seen.look()
    assert seen.looked_at > looked_at
