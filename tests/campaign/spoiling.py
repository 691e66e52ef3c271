"""Images of every format and files of a sweep, spoilt at random: what is sound stays, what is not is named."""

import csv
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from rounds import DOCUMENTED, Round, check_equal, facts_of, read_sweep
from support import draw

NUM_SOUND, NUM_SPOILT, NUM_SWEEPS = 4, 40, 5
FORMATS: dict[str, list[dict[str, Any]]] = {
    "jpg": [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"subsampling": 0, "optimize": True}],
    "png": [{}, {"compress_level": 0}], "webp": [{}, {"lossless": True}], "gif": [{}], "bmp": [{}],
    "tiff": [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"compression": "jpeg"}]}
MODES = ("RGB", "RGB", "L", "P", "1", "CMYK", "RGBA", "I;16")
ENDS = {"jpg": b"\xff\xd9", "gif": b"\0;", "png": b"\0\0\0\0IEND\xaeB`\x82"}
HOSTILE = (b"", b"{}", b"[]", b"null", b"0", b"[" * 100_000, b'{"a":' * 50_000, b'"\\ud800"', b"1e999", b"\xff\xfe",
           b"\0" * 5000, b"a," * 200_000, b'"' * 3001, b"-" + b"9" * 5000, b"\n" * 9999)
# What a damaged file may lead to: neither a bug (70) nor what goes away by itself (71, 75).
OF_DAMAGE = DOCUMENTED - {70, 71, 75, 143}


def spoil(data: bytes, chance: random.Random) -> tuple[str, bytes]:
    """Return the name of a way to damage bytes, and the bytes."""
    way = chance.choice(["cut", "overwritten", "zeros", "flipped", "left out", "put in", "head"])
    size = min(chance.choice([1, 4, 60, 900, 4096]), max(1, len(data) // 2))
    start = chance.randrange(max(1, len(data) - size))
    before, after = data[:start], data[start + size:]
    if way == "cut":
        return way, before
    if way == "flipped":
        return way, before + bytes([data[start] ^ 1 << chance.randrange(8)]) + data[start + 1:] if data else b"x"
    if way == "head":
        start = chance.randrange(min(64, len(data) or 1))
        return way, data[:start] + chance.randbytes(2) + data[start + 2:]
    middle = {"overwritten": chance.randbytes(size), "zeros": bytes(size), "left out": b""}
    return way, before + middle[way] + after if way in middle else before + chance.randbytes(size) + data[start:]


def images(round_: Round) -> None:
    """A prepare of damaged images beside sound ones, in every promised format."""
    source, sweep = round_.folder / "images", round_.folder / "sweep"
    sound, damaged = make_images(round_, source)
    round_.run({0}, "prepare", source, sweep, "--short-side", 48, "--max-bad", 0.99)
    passport = json.loads((sweep / "pack" / "passport.json").read_text())
    with (sweep / "pack" / passport["table"]["name"]).open(newline="") as file:
        packed = {line["image"] for line in csv.DictReader(file)}
    rejected = {item["image"] for item in passport["rejected"]}
    assert all(item["reason"] for item in passport["rejected"]), passport["rejected"]
    assert sound <= packed, f"sound images are not in the pack: {sorted(sound - packed)}: {passport['rejected']}"
    assert packed | rejected == sound | damaged, f"vanished: {sorted((sound | damaged) - packed - rejected)}"
    for name in rejected:
        round_.tally[f"images: {Path(name).suffix[1:]} rejected"] += 1


def make_images(round_: Round, source: Path) -> tuple[set[str], set[str]]:
    """Draw images of every format, and damage some; return the names of the sound and of the damaged ones."""
    chance, sound, damaged = round_.chance, set(), set()
    drawn = round_.folder / "drawn.png"
    for kind, ways in FORMATS.items():
        for number in range(NUM_SOUND + NUM_SPOILT):
            label = chance.choice(["disc", "bar"]) if number > 1 else ["disc", "bar"][number]
            draw(drawn, label, chance.randrange(10**6), (chance.randint(90, 300), chance.randint(90, 200)))
            path = source / label / f"{kind}{number:02d}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            save(drawn, path, chance.choice(ways), chance.choice(MODES))
            name = path.relative_to(source).as_posix()
            if number < NUM_SOUND:
                sound.add(name)
                continue
            way, data = spoil(path.read_bytes(), chance)
            if chance.random() < 0.3:
                way, data = f"{way}, with an end", data + ENDS.get(kind, b"")
            path.write_bytes(data)
            damaged.add(name)
            round_.note(f"{name}: {way}")
            round_.tally[f"images: {kind} damaged"] += 1
    return sound, damaged


def save(drawn: Path, path: Path, options: dict[str, Any], mode: str) -> None:
    """Save an image in this mode, or in full colour if its format has no such mode."""
    with Image.open(drawn) as image:
        try:
            # libtiff would complain on the screen.
            mode = "RGB" if options.get("compression") == "jpeg" else mode
            image.convert(mode).save(path, **options)
        except (OSError, ValueError, RuntimeError):
            image.convert("RGB").save(path, **options)


def sweep_files(round_: Round) -> None:
    """Damaged files of a finished sweep, one or two at a time, and what the commands make of them."""
    for number in range(NUM_SWEEPS):
        sweep = round_.folder / f"sweep-{number}"
        shutil.copytree(round_.ground.sweep, sweep)
        hit = {key for _ in range(round_.chance.choice([1, 1, 2])) if (key := damage_a_file(round_, sweep))}
        trials = {key.split("/")[1] for key in hit if key.startswith("trials/")}
        healthy = {trial: facts for trial, facts in round_.ground.facts.items() if trial not in trials}
        in_trials = all(key.startswith("trials/") for key in hit)
        for command in ("status", "gather"):
            shown = round_.run(OF_DAMAGE, command, sweep, "--json")
            if in_trials:
                states = {trial["trial"]: trial["state"] for trial in json.loads(shown.out)["trials"]}
                assert all(states.get(trial) == "done" for trial in healthy), f"{shown.path.name} shows {states}"
        round_.run(OF_DAMAGE, "predict", sweep, next(iter(sorted(round_.ground.images.rglob("*.jpg")))))
        if round_.chance.random() < 0.6:
            train_again(round_, sweep, trials if in_trials else set())
        check_equal(facts_of_trials(sweep, healthy), healthy)
        shutil.rmtree(sweep)


def damage_a_file(round_: Round, sweep: Path) -> str:
    """Damage a file of a random kind; return its key."""
    chance = round_.chance
    kinds: dict[str, list[Path]] = {}
    for path in sorted(sweep.rglob("*")):
        if path.is_file() and "events" not in path.parts:
            kinds.setdefault(f"{path.parent.name * ('attempts' in path.parts)}{kind_of(path)}", []).append(path)
    kind = chance.choice(sorted(kinds))
    path = chance.choice(kinds[kind])
    way, data = ("hostile", chance.choice(HOSTILE)) if chance.random() < 0.4 else spoil(path.read_bytes(), chance)
    path.write_bytes(data)
    key = path.relative_to(sweep).as_posix()
    round_.note(f"{sweep.name}/{key}: {way}")
    round_.tally[f"files: {kind}"] += 1
    return key


def kind_of(path: Path) -> str:
    """Return a file's name without its number and hash."""
    return re.sub(r"(-\d{5})?-[0-9a-f]{16}|-\d{4}|\d{4}", "", path.name)


def train_again(round_: Round, sweep: Path, trials: set[str]) -> None:
    """Run the sweep again, sometimes without the rows of damaged trials: if that succeeds, these trials are equal."""
    gone = {trial for trial in sorted(trials) if round_.chance.random() < 0.6}
    for trial in gone:
        (sweep / "trials" / trial / "row.json").unlink()
        round_.note(f"{sweep.name}/trials/{trial}/row.json: deleted")
    if round_.end(round_.start("sweep", sweep), OF_DAMAGE) == 0:
        again = {trial: round_.ground.facts[trial] for trial in gone}
        check_equal(facts_of_trials(sweep, again), again)


def facts_of_trials(sweep: Path, trials: dict[str, Any]) -> dict[str, dict[str, object]]:
    """Return what is to be compared of some trials."""
    wanted = tuple(f"trials/{trial}/" for trial in trials)
    return facts_of({key: data for key, data in read_sweep(sweep).items() if key.startswith(wanted)})
