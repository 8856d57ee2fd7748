"""Writes vectors.txt with the reference implementation: pip install blake3.

Each line: bytes of the input, their hash, their hash under the key. Byte i of an input is
i mod 251, byte i of the key is 3 i + 1.
"""

import pathlib

import blake3

KEY = bytes(3 * i + 1 & 0xFF for i in range(32))
CHUNK = 1024
# Around blocks, chunks, vectors of chunks, and trees that are lopsided in every way.
LENGTHS = [0, 1, 31, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025, 2048, 2049]
LENGTHS += [n * CHUNK + d for n in (3, 4, 5, 7, 8, 9, 11, 15, 16, 17, 23, 31, 33, 63, 65, 101) for d in (-1, 0, 1)]
LENGTHS += [150_000, 262_144, 1_000_003]

lines = []
for length in LENGTHS:
    data = bytes(i % 251 for i in range(length))
    plain, keyed = blake3.blake3(data), blake3.blake3(data, key=KEY)
    lines.append(f"{length} {plain.hexdigest()} {keyed.hexdigest()}\n")
(pathlib.Path(__file__).parent / "vectors.txt").write_text("".join(lines))
