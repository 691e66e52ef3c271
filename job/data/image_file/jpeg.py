"""The segments of a JPEG file (ISO/IEC 10918-1, annex B), read before any pixel is decoded."""

from collections.abc import Iterator

from job.data.image_file.bounds import MOST_SCANS, Refused

SIGNATURE = b"\xff\xd8\xff"
SOF2, DHT, EOI, SOS, APP0, APP1, APP14, APP15, COM = 0xC2, 0xC4, 0xD9, 0xDA, 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
END_MARKER, SCAN_MARKER = b"\xff\xd9", b"\xff\xda"
PROGRESSIVE = (SOF2, 0xCA)
# Frames that libjpeg does not decode.
UNSUPPORTED = {0xC5: "hierarchical", 0xC6: "hierarchical", 0xC7: "hierarchical", 0xCB: "arithmetic lossless",
               0xCD: "hierarchical", 0xCE: "hierarchical", 0xCF: "hierarchical", 0xF7: "JPEG-LS"}
FRAMES = {0xC0, 0xC1, SOF2, 0xC3, 0xC9, *PROGRESSIVE, *UNSUPPORTED}


def header(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of the segments up to the first scan's header, markers included; stop where it is cut.

    As Pillow and libjpeg do, it passes over bytes between segments that begin no marker.
    """
    start = 2
    while (start := data.find(b"\xff", start)) >= 0 and start + 4 <= len(data):
        marker = data[start + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:
            start += 1 if marker == 0xFF else 2
            continue
        end = start + 2 + int.from_bytes(data[start + 2:start + 4])
        yield marker, start, end
        if marker in (SOS, EOI):
            return
        start = end


def header_size(data: bytes) -> int:
    """Return the number of bytes before the first scan's data; 0 if there is no scan."""
    return next((end for marker, _, end in header(data) if marker == SOS and end <= len(data)), 0)


def scans(data: bytes) -> Iterator[tuple[list[int], int, int, int]]:
    """Yield (components, first coefficient, last coefficient, bits left out) of each scan's header.

    Within a scan's data, 0xFF is followed by 0 or a restart marker, so the next scan's marker can be searched for.
    """
    start = next((start for marker, start, _ in header(data) if marker == SOS), -1)
    end = data.find(END_MARKER, header_size(data))
    while start >= 0:
        yield from scan_header(data, start)
        start = data.find(SCAN_MARKER, start + 2, end if end >= 0 else len(data))


def scan_header(data: bytes, start: int) -> Iterator[tuple[list[int], int, int, int]]:
    """Yield what one scan's header says, or nothing if it is cut."""
    size = int.from_bytes(data[start + 2:start + 4])
    body = data[start + 4:start + 2 + size]
    if start >= 0 and size >= 6 and len(body) == size - 2 == 4 + 2 * body[0]:
        yield list(body[1:1 + 2 * body[0]:2]), body[-3], body[-2], body[-1] & 15


def check(data: bytes) -> None:
    """Raise Refused for a JPEG that is not read or has too many scans, ValueError if scans or the end are missing."""
    marker, frame, first_scan, size = 0, b"", b"", 0
    for found, start, end in header(data):
        if found in FRAMES:
            marker, frame = found, data[start + 4:end]
        elif found == SOS:
            first_scan, size = data[start + 4:end], end
    if not marker or len(frame) < 6 or not first_scan:
        return
    bits, num_components = frame[0], frame[5]
    if marker in UNSUPPORTED:
        raise Refused(f"a {UNSUPPORTED[marker]} JPEG is not supported; save it as a baseline or progressive one")
    if bits != 8:
        raise Refused(f"a JPEG with {bits} bits is not supported; save it with 8 bits")
    if num_components not in (1, 3, 4):
        raise Refused(f"a JPEG with {num_components} components is not supported; save it as grey, RGB or CMYK")
    # From the end on, because searching all of the data takes as long as a twentieth of decoding it.
    if data.rfind(END_MARKER, size) < 0:
        raise ValueError("the end of the JPEG is missing")
    # libjpeg reads one scan alone where it holds all components of a frame that is not progressive.
    if marker in PROGRESSIVE or first_scan[0] != num_components:
        check_scans(data, marker, num_components)


def check_scans(data: bytes, frame: int, num_components: int) -> None:
    """Raise Refused for too many scans, ValueError if a progressive JPEG lacks some."""
    left_out: dict[int, list[int]] = {}
    for num_scans, (components, first, last, bits_left) in enumerate(scans(data), 1):
        if num_scans > MOST_SCANS:
            raise Refused(f"a JPEG of more than {MOST_SCANS} scans (decompression bomb)")
        for component in components:
            for coefficient in range(first, min(last, 63) + 1):
                left_out.setdefault(component, [16] * 64)[coefficient] = bits_left
    if frame in PROGRESSIVE and (len(left_out) < num_components or any(map(any, left_out.values()))):
        raise ValueError("scans of a progressive JPEG are missing")


def without_metadata(data: bytes) -> bytes | None:
    """Return the file without comments and application segments, but for JFIF's and Adobe's, which say the colours."""
    size = header_size(data)
    if not size:
        return None
    kept = [data[start:end] for marker, start, end in header(data)
            if not (APP1 <= marker <= APP15 and marker != APP14) and marker != COM]
    return b"".join([data[:2], *kept, data[size:]])


def exif(data: bytes) -> bytes:
    """Return the EXIF block, from its byte order on; empty if there is none."""
    blocks = (data[start + 4:end] for marker, start, end in header(data) if marker == APP1)
    return next((block[6:] for block in blocks if block.startswith(b"Exif\0\0")), b"")
