"""The size of a WebP file (RFC 9649), read before a decoder takes memory for it."""

VP8_START, VP8L_START = b"\x9d\x01\x2a", 0x2F


def canvas_size(data: bytes) -> tuple[int, int]:
    """Return width and height; (1, 1) where the header does not say them, which is left to the decoder."""
    chunk = data[12:16]
    if chunk == b"VP8X" and len(data) >= 30:
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8 " and data[23:26] == VP8_START and len(data) >= 30:
        width, height = (int.from_bytes(data[at:at + 2], "little") & 0x3FFF for at in (26, 28))
        return width or 1, height or 1
    if chunk == b"VP8L" and len(data) >= 25 and data[20] == VP8L_START:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return 1, 1
