"""Finds near-identical images among many: candidates by a hash of 64 bits in sorted tables, then their descriptors.

An image is looked up whole and as CROPS of itself among the whole images. In each of NUM_TABLES tables the hashes of
the whole images are sorted, the bits in another order, and a hash is compared with the WINDOW beside its place (the
method of Manku, Jain and Sarma, "Detecting near-duplicates for web crawling", 2007). So the number of comparisons is
that of the images times a constant, whatever the images are. Where many images look alike, which would make a bucket of
a hash table arbitrarily large, a window holds only the nearest in order; the tables differ in what is near. Of the
candidates of an image, the MOST_CANDIDATES nearest have their descriptors compared.

Memory: a descriptor of 1.5 KB and some 20 numbers per image, and the work of one block of images.
"""

import random
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from job.data.descriptor import BRIGHTNESS, CELLS, MARGINS, Descriptors, Numbers, alike, flat

Places = NDArray[np.int64]

# The cosines of the 64 lowest frequencies but that of the mean, as whole numbers; the hash says which are high.
FREQUENCIES = sorted(((u, v) for u in range(9) for v in range(9) if u + v),
                     key=lambda wave: (wave[0] ** 2 + wave[1] ** 2, wave))[:64]
COSINES = np.round(64 * np.cos(np.pi / CELLS * np.arange(9)[:, None] * (np.arange(CELLS) + 0.5)))
# The crops that are looked up: nothing, 2.5% or 5% off at both ends, or 5% off at one.
CROPS = [MARGINS.index(margin) for margin in ((0, 0), (0, 2), (1, 1), (2, 0), (2, 2))]
NUM_TABLES, WINDOW, MOST_BITS, MOST_CANDIDATES = 12, 8, 12, 16
# Images whose hashes are worked on at a time, and pairs whose descriptors are.
BLOCK, PAIRS = 1024, 128
# A pair whose correlation at the crop of its hashes is lower has none that is high.
PROMISING = 0.5
ALL = range(len(MARGINS))


def near_groups(descriptors: bytes | bytearray, digests: Sequence[str], near: float) -> list[str]:
    """Return for each image the least digest of its group: those that near-identical pairs join, directly or in a row.

    digests: what tells files apart; images with equal digests are one. near: the largest difference of a pair, 1 minus
    correlation. An image that is like none has its own digest, and so has a flat one.

    A group is a connected component, not a set of images that are all alike (complete linkage): if A is like B and B
    like C, then A and C on two sides of a split leave B on the other side of one of them, a leak. That a chain does not
    unite a class is up to the threshold, which lies well above what look-alikes reach (docs/images.md).
    """
    if not digests:
        return []
    # In the order of the digests, names make no difference.
    order = sorted(set(digests))
    first = {digest: i for i, digest in reversed(list(enumerate(digests)))}
    at = np.array([first[digest] for digest in order])
    found, groups = Descriptors.of(descriptors), Groups(len(order))
    shows = np.concatenate([start + np.flatnonzero(~flat(found[at[start:start + BLOCK]]))
                            for start in range(0, len(at), BLOCK)])
    if len(shows) > 1:
        for whole, cropped in near_pairs(found[at[shows]], 1 - near, groups.differ_among(shows)):
            groups.unite(int(shows[whole]), int(shows[cropped]))
    names = {digest: order[groups.least(i)] for i, digest in enumerate(order)}
    return [names[digest] for digest in digests]


class Groups:
    """Disjoint groups of numbers; each is known by its least."""

    def __init__(self, count: int) -> None:
        self.above = list(range(count))

    def least(self, i: int) -> int:
        """Return the least number of a group."""
        while self.above[i] != i:
            self.above[i] = self.above[self.above[i]]
            i = self.above[i]
        return i

    def unite(self, i: int, j: int) -> None:
        """Make the groups of two numbers one."""
        i, j = sorted((self.least(i), self.least(j)))
        self.above[j] = i

    def differ_among(self, numbers: Places) -> Callable[[Places, Places], NDArray[np.bool_]]:
        """Return the function that says of pairs of places in `numbers` whether they are in different groups."""
        def differ(first: Places, second: Places) -> NDArray[np.bool_]:
            return np.array([self.least(int(i)) != self.least(int(j))
                             for i, j in zip(numbers[first], numbers[second], strict=True)], bool)
        return differ


def near_pairs(found: Descriptors, least: float, differ: Callable[[Places, Places], NDArray[np.bool_]]
               ) -> Iterator[tuple[int, int]]:
    """Yield pairs of near-identical images; those that are already in one group are not compared."""
    for block in candidates(found):
        kept = found.shaped_alike(*block[:2])
        kept[kept] = differ(block[0][kept], block[1][kept])
        whole, cropped, crop = (column[kept] for column in block)
        for number in range(len(CROPS) ** 2):
            # At one crop a comparison is cheap.
            here = np.flatnonzero(crop == number)
            at = [CROPS[number // len(CROPS)]], [CROPS[number % len(CROPS)]]
            for start in range(0, len(here), PAIRS):
                some = here[start:start + PAIRS]
                promising = some[alike(found[whole[some]], found[cropped[some]], *at, min(PROMISING, least))]
                is_near = promising[alike(found[whole[promising]], found[cropped[promising]], ALL, ALL, least)]
                yield from zip(whole[is_near].tolist(), cropped[is_near].tolist(), strict=True)


def candidates(found: Descriptors) -> Iterator[tuple[Places, Places, Places]]:
    """Yield for one block of images after another: pairs of a whole and a cropped image, and the number of the crop.

    Each pair is there once per block, with the crop whose hash differs in the fewest bits.
    """
    blocks = [slice(start, start + BLOCK) for start in range(0, len(found), BLOCK)]
    uncropped = np.concatenate([shares(found[block], CROPS[:1])[:, 0] for block in blocks])
    # Above the median: what all images have in common makes no bit. Above 0: where the median lies among the copies of
    # one image, their bits would be drawn by chance.
    middles = (np.median(uncropped, axis=0), np.zeros(64))
    tables = []
    for number, bits in enumerate(orders()):
        hashes = hashed(uncropped > middles[number % 2], bits)
        order = np.argsort(hashes, kind="stable")
        tables.append((bits, order, hashes[order]))
    del uncropped
    for block in blocks:
        shares_NVB = shares(found[block], CROPS)
        signs = [shares_NVB > middle for middle in middles]
        yield nearest([look_up(signs[number % 2], block.start, *table) for number, table in enumerate(tables)],
                      len(found))


def shares(found: Descriptors, steps: Sequence[int]) -> Numbers:
    """Return the share of each frequency in crops of N images, shares_NVB; contrast makes no difference to them."""
    waves = COSINES @ BRIGHTNESS[steps]
    narrow = found.brightness_NHW[:, None] @ waves.transpose(0, 2, 1)
    amounts = np.einsum("rui,ncij->nrcuj", waves, narrow, optimize=True).reshape(len(found), len(steps) ** 2, 9, 9)
    lowest_NVB = amounts[..., [u for u, _ in FREQUENCIES], [v for _, v in FREQUENCIES]]
    return np.asarray(lowest_NVB / np.maximum(np.abs(lowest_NVB).sum(axis=-1, keepdims=True), 1))


def orders() -> list[list[int]]:
    """Return the orders of the bits in the tables."""
    return [random.Random(table).sample(range(64), 64) for table in range(NUM_TABLES)]


def hashed(signs: NDArray[np.bool_], bits: Sequence[int]) -> NDArray[np.uint64]:
    """Return 64 signs along the last axis as one number, in an order of the bits."""
    return np.ascontiguousarray(np.packbits(signs[..., bits], axis=-1)).view(">u8")[..., 0].astype(np.uint64)


def look_up(signs_NVB: NDArray[np.bool_], start: int, bits: Sequence[int], order: Places,
            hashes: NDArray[np.uint64]) -> tuple[Places, Places, Places, Places]:
    """Look up crops of images, the first with the number `start`, in one table.

    Return whole, cropped, crop and the number of bits that differ, for all pairs with at most MOST_BITS of these.
    """
    wanted = hashed(signs_NVB, bits).reshape(-1)
    beside = np.searchsorted(hashes, wanted)[:, None] + np.arange(-WINDOW // 2, WINDOW // 2)
    beside = np.clip(beside, 0, len(hashes) - 1)
    num_bits = np.bitwise_count(hashes[beside] ^ wanted[:, None])
    which, place = np.nonzero(num_bits <= MOST_BITS)
    whole, cropped = order[beside[which, place]], start + which // signs_NVB.shape[1]
    kept = whole != cropped
    return (whole[kept], cropped[kept], which[kept] % signs_NVB.shape[1],
            num_bits[which, place][kept].astype(np.int64))


def nearest(parts: Sequence[tuple[Places, ...]], count: int) -> tuple[Places, Places, Places]:
    """Return whole, cropped and crop of the MOST_CANDIDATES nearest of each cropped image, each pair once."""
    whole, cropped, crop, num_bits = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((crop, num_bits, whole, cropped))
    pair = cropped[order] * count + whole[order]
    order = order[np.concatenate([[True], pair[1:] != pair[:-1]])[:len(order)]]
    order = order[np.lexsort((whole[order], num_bits[order], cropped[order]))]
    _, first, counts = np.unique(cropped[order], return_index=True, return_counts=True)
    rank = np.arange(len(order)) - np.repeat(first, counts)
    order = order[rank < MOST_CANDIDATES]
    return whole[order], cropped[order], crop[order]
