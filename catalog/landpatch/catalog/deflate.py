"""Zlib streams of predicted pixels: Huffman codes and runs, without a search for other matches.

What a predictor leaves of pixels is noise around zero: matches of three or more bytes are rare in it, and searching
them takes most of an ordinary encoder's time for less than a hundredth of the size. What pays is a code made for the
strip, and runs where pixels are equal (reference maps, the highest bytes of floats).

Everything is whole numbers and depends on the input alone. isal's level 1 does not keep that: it looks into memory
that it has not initialised, so that now and then (5 files of 41,000) the same pixels give other bytes. (Python's isal
1.9; the C library's ``MALLOC_PERTURB_`` shows it.)

Sources: RFC 1950 (zlib), RFC 1951 (deflate); Moffat and Katajainen, In-place calculation of minimum-redundancy codes
(WADS 1995); the repair of codes that are too long is miniz's (R. Geldreich).
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from landpatch.catalog.heap import ThreadMemory

_END = 256  # the symbol after the last; literals are 0 to 255, runs from 257 on
_SYMBOLS = 286
_LIMIT = 14  # bits of a code; deflate allows 15, but four of 14 fit the accumulator behind a started byte
_LENGTH_LIMIT = 7  # bits of a code of code lengths: RFC 1951, 3.2.7
_LONGEST_RUN = 258
_HEADER_WORDS = 64  # of 8 bytes: at most 2,100 bits of codes, and the ends of the stream

_LENGTH_ORDER = np.array([16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15])  # RFC 1951, 3.2.7
_WEIGHTS = np.arange(2048, 0, -1).astype(np.int16)
"""Of 2048 bytes in the second sum of a checksum, which stays below 2**31; compilers multiply 16 bits best."""
_REVERSED = np.array([int(f"{octet:08b}"[::-1], 2) for octet in range(256)], np.uint64)


def _run_symbols() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Of each length of a run (3 to 258) its symbol, the number of extra bits and their value: RFC 1951, 3.2.5."""
    symbols, extra_bits, extra = (np.zeros(_LONGEST_RUN + 1, np.int64) for _ in range(3))
    length = 3
    for symbol in range(257, 285):
        bits = max((symbol - 261) // 4, 0)
        for value in range(1 << bits):
            symbols[length], extra_bits[length], extra[length] = symbol, bits, value
            length += 1
    symbols[_LONGEST_RUN], extra_bits[_LONGEST_RUN], extra[_LONGEST_RUN] = 285, 0, 0
    return symbols, extra_bits, extra


_RUN_SYMBOL, _RUN_EXTRA_BITS, _RUN_EXTRA = _run_symbols()


_room = ThreadMemory()


def deflate(strips: NDArray[Any]) -> list[bytes]:
    """One zlib stream for each of ``strips``: an array of two or more dimensions, one strip behind the other.

    The same input gives the same bytes on every machine.
    """
    octets = np.ascontiguousarray(strips).reshape(len(strips), -1).view(np.uint8)
    whole = octets.shape[1] // 4
    words = np.ascontiguousarray(octets[:, : 4 * whole]).view("<u4")
    # No code is longer than two bytes.
    streams = _room.octets(8 * len(strips) * (whole + _HEADER_WORDS)).view(np.uint64).reshape(len(strips), -1)
    sizes = np.empty(len(strips), np.int64)
    _deflate(octets, words, streams, sizes)
    return [stream[:used].tobytes() for stream, used in zip(streams.view(np.uint8), sizes.tolist(), strict=True)]


@njit(cache=True, nogil=True)
def _deflate(
    octets: NDArray[np.uint8], words: NDArray[np.uint32], streams: NDArray[np.uint64], sizes: NDArray[np.int64]
) -> None:
    """``words`` are the ``octets`` of each strip, four at a time; up to three at its end are in no word."""
    for i in range(len(octets)):
        sizes[i] = _stream(octets[i], words[i], streams[i])


# Bits gather in 64: ``at`` whole words of a stream are written, ``bits`` bits wait in ``held``.


@njit(cache=True, nogil=True)
def _put(stream: Any, at: int, held: Any, bits: Any, value: Any, size: Any) -> tuple[int, Any, Any]:
    """Append the ``size`` lowest bits of ``value``, at most 56; the others are 0."""
    filled = held | (value << bits)
    end = bits + size
    if end < np.uint64(64):
        return at, filled, end
    stream[at] = filled
    return at + 1, value >> (np.uint64(64) - bits), end - np.uint64(64)


@njit(cache=True, nogil=True)
def _stream(octets: NDArray[np.uint8], words: NDArray[np.uint32], stream: NDArray[np.uint64]) -> int:
    """Fill ``stream`` with one final block of codes made for it; returns its number of bytes."""
    lengths = np.zeros(_SYMBOLS + 1, np.int32)
    _code_lengths(_frequencies(octets, words), _LIMIT, lengths[:_SYMBOLS])
    codes = _codes(lengths)
    at, held, bits = _put_header(stream, lengths)
    # Code and its length in one number: a single look-up for a literal.
    literals = np.empty(256, np.uint32)
    for literal in range(256):
        literals[literal] = np.uint32(codes[literal]) | (np.uint32(lengths[literal]) << np.uint32(16))
    octet, by, code = np.uint64(0xFF), np.uint64(16), np.uint64(0xFFFF)
    last = np.uint64(256)
    i = 0
    while i < len(words):
        word = np.uint64(words[i])
        if _is_even(words[i]):
            end = _end_of_run(words, i)
            at, held, bits = _put_run(stream, at, held, bits, word & octet, last, 4 * (end - i), lengths, codes)
            i = end
        else:
            a, b = np.uint64(literals[word & octet]), np.uint64(literals[(word >> np.uint64(8)) & octet])
            c, d = np.uint64(literals[(word >> np.uint64(16)) & octet]), np.uint64(literals[word >> np.uint64(24)])
            first = (a & code) | ((b & code) << (a >> by))
            second = (c & code) | ((d & code) << (c >> by))
            half = (a >> by) + (b >> by)
            at, held, bits = _put(stream, at, held, bits, first | (second << half), half + (c >> by) + (d >> by))
            i += 1
        last = word >> np.uint64(24)
    for value in octets[4 * len(words) :]:
        at, held, bits = _put(stream, at, held, bits, codes[value], np.uint64(lengths[value]))
    at, held, bits = _put(stream, at, held, bits, codes[_END], np.uint64(lengths[_END]))
    at, held, bits = _put(stream, at, held, bits, np.uint64(0), (np.uint64(8) - bits) & np.uint64(7))
    checksum = np.uint64(_adler32(octets))
    for shift in (24, 16, 8, 0):
        at, held, bits = _put(stream, at, held, bits, (checksum >> np.uint64(shift)) & octet, np.uint64(8))
    stream[at] = held
    return at * 8 + int(bits // np.uint64(8))


@njit(cache=True, nogil=True)
def _adler32(octets: NDArray[np.uint8]) -> Any:
    """The checksum at the end of a zlib stream: RFC 1950, 8.2."""
    low, high = np.uint32(1), np.uint32(0)
    for start in range(0, len(octets), len(_WEIGHTS)):
        part = octets[start : start + len(_WEIGHTS)]
        weights = _WEIGHTS[len(_WEIGHTS) - len(part) :]
        total, weighted = np.int32(0), np.int32(0)
        for i in range(len(part)):
            value = np.int32(part[i])
            total += value
            weighted += value * np.int32(weights[i])
        high = (high + np.uint32(len(part)) * low + np.uint32(weighted)) % np.uint32(65521)
        low = (low + np.uint32(total)) % np.uint32(65521)
    return (high << np.uint32(16)) | low


# Runs begin and end with a word of four equal bytes: testing words instead of bytes is what makes it fast. The first
# byte of a run is a literal, unless the byte before is the same; the others are matches with the byte before.


@njit(cache=True, nogil=True)
def _is_even(word: Any) -> bool:
    """Whether the four bytes of a word are equal: whether it stays the same when they are turned by one."""
    return word == np.uint32((word << np.uint32(8)) | (word >> np.uint32(24)))


@njit(cache=True, nogil=True)
def _end_of_run(words: NDArray[np.uint32], start: int) -> int:
    end = start + 1
    while end < len(words) and words[end] == words[start]:
        end += 1
    return end


@njit(cache=True, nogil=True)
def _match(left: int) -> int:
    """How many of the ``left`` bytes of a run the next match takes; what remains is 0 or 3 and more."""
    length = min(left, _LONGEST_RUN)
    return length - 3 if 0 < left - length < 3 else length


@njit(cache=True, nogil=True)
def _frequencies(octets: NDArray[np.uint8], words: NDArray[np.uint32]) -> NDArray[np.int32]:
    """How often each symbol occurs, below 65,536: all are halved where one is more frequent."""
    # Four tables: equal bytes one behind the other would wait for each other's counts.
    counts = np.zeros((4, 256), np.int32)
    frequencies = np.zeros(_SYMBOLS, np.int32)
    octet = np.uint32(0xFF)
    last = np.uint32(256)
    i = 0
    while i < len(words):
        word = words[i]
        if _is_even(word):
            end = _end_of_run(words, i)
            left = 4 * (end - i)
            if last != word & octet:
                counts[0, word & octet] += 1
                left -= 1
            while left:
                length = _match(left)
                frequencies[_RUN_SYMBOL[length]] += 1
                left -= length
            i = end
        else:
            counts[0, word & octet] += 1
            counts[1, (word >> np.uint32(8)) & octet] += 1
            counts[2, (word >> np.uint32(16)) & octet] += 1
            counts[3, word >> np.uint32(24)] += 1
            i += 1
        last = word >> np.uint32(24)
    for value in octets[4 * len(words) :]:
        counts[0, value] += 1
    for literal in range(256):
        frequencies[literal] = counts[0, literal] + counts[1, literal] + counts[2, literal] + counts[3, literal]
    frequencies[_END] = 1
    while frequencies.max() >= 65536:
        for symbol in range(_SYMBOLS):
            frequencies[symbol] = (frequencies[symbol] + 1) // 2
    return frequencies


@njit(cache=True, nogil=True)
def _put_run(
    stream: Any, at: int, held: Any, bits: Any, value: Any, last: Any, left: int, lengths: Any, codes: Any
) -> tuple[int, Any, Any]:
    """Append ``left`` bytes ``value`` behind a byte ``last``."""
    if last != value:
        at, held, bits = _put(stream, at, held, bits, codes[value], np.uint64(lengths[value]))
        left -= 1
    while left:
        length = _match(left)
        symbol = _RUN_SYMBOL[length]
        size = np.uint64(lengths[symbol])
        run = codes[symbol] | (np.uint64(_RUN_EXTRA[length]) << size)
        # And one bit, 0: the code of the distance 1, the only one there is.
        at, held, bits = _put(stream, at, held, bits, run, size + np.uint64(_RUN_EXTRA_BITS[length] + 1))
        left -= length
    return at, held, bits


# --- Codes ----------------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _rarest_first(frequencies: NDArray[np.int32]) -> NDArray[np.int32]:
    """The symbols that occur, by frequency and then by number: a radix sort in two passes of 8 bits."""
    low, high = np.zeros(257, np.int32), np.zeros(257, np.int32)
    for frequency in frequencies:
        if frequency:
            low[(frequency & 0xFF) + 1] += 1
            high[(frequency >> 8) + 1] += 1
    for i in range(256):
        low[i + 1] += low[i]
        high[i + 1] += high[i]
    count = low[256]
    halfway, symbols = np.empty(count, np.int32), np.empty(count, np.int32)
    for symbol in range(len(frequencies)):
        digit = frequencies[symbol] & 0xFF
        if frequencies[symbol]:
            halfway[low[digit]] = symbol
            low[digit] += 1
    for symbol in halfway:
        digit = frequencies[symbol] >> 8
        symbols[high[digit]] = symbol
        high[digit] += 1
    return symbols


@njit(cache=True, nogil=True)
def _code_lengths(frequencies: NDArray[np.int32], limit: int, lengths: NDArray[np.int32]) -> None:
    """Lengths of a Huffman code, at most ``limit``; 0 for symbols that do not occur. At least two must."""
    symbols = _rarest_first(frequencies)
    counts = _lengths_counted(frequencies[symbols], limit)
    # A code that is too long became one of ``limit`` bits; others must grow until all have room again (Kraft).
    room = 0
    for length in range(1, limit + 1):
        room += counts[length] << (limit - length)
    while room > 1 << limit:
        counts[limit] -= 1
        shorter = limit - 1
        while counts[shorter] == 0:
            shorter -= 1
        counts[shorter] -= 1
        counts[shorter + 1] += 2
        room -= 1
    i = len(symbols)
    for length in range(1, limit + 1):
        for _ in range(counts[length]):
            i -= 1
            lengths[symbols[i]] = length


@njit(cache=True, nogil=True)
def _lengths_counted(work: NDArray[np.int32], limit: int) -> NDArray[np.int64]:
    """How many codes of each length there are, those longer than ``limit`` under it; ``work`` are frequencies in
    ascending order and becomes, in turn, the inner nodes' sums, their parents and their depths.
    """
    count = len(work)
    work[0] += work[1]
    root, leaf = 0, 2
    for node in range(1, count - 1):
        total = 0
        for _ in range(2):
            if leaf >= count or (root < node and work[root] < work[leaf]):
                total += work[root]
                work[root] = node
                root += 1
            else:
                total += work[leaf]
                leaf += 1
        work[node] = total
    work[count - 2] = 0
    for node in range(count - 3, -1, -1):
        work[node] = work[work[node]] + 1
    counts = np.zeros(limit + 1, np.int64)
    available, depth, root = 1, 0, count - 2
    while available:
        inner = 0
        while root >= 0 and work[root] == depth:
            inner += 1
            root -= 1
        counts[min(depth, limit)] += available - inner
        available = 2 * inner
        depth += 1
    return counts


@njit(cache=True, nogil=True)
def _codes(lengths: NDArray[np.int32]) -> NDArray[np.uint64]:
    """The codes that RFC 1951, 3.2.2, gives to these lengths, their first bit lowest."""
    following = np.zeros(17, np.uint64)
    for length in lengths:
        if length:
            following[length + 1] += np.uint64(1)
    for length in range(1, 17):  # counts of the next shorter codes become the first code of each length
        following[length] = (following[length] + following[length - 1]) << np.uint64(1)
    codes = np.zeros(len(lengths), np.uint64)
    for symbol in range(len(lengths)):
        length = lengths[symbol]
        if length:
            code = following[length]
            following[length] += np.uint64(1)
            mirrored = (_REVERSED[code & np.uint64(0xFF)] << np.uint64(8)) | _REVERSED[code >> np.uint64(8)]
            codes[symbol] = mirrored >> np.uint64(16 - length)
    return codes


@njit(cache=True, nogil=True)
def _put_header(stream: NDArray[np.uint64], lengths: NDArray[np.int32]) -> tuple[int, Any, Any]:
    """Begin a stream: the two bytes of zlib, the block's header, its codes as lengths that are coded themselves."""
    used = _END + 1
    for symbol in range(_END + 1, _SYMBOLS):
        if lengths[symbol]:
            used = symbol + 1
    told = np.empty(used + 1, np.int32)
    told[:used] = lengths[:used]
    told[used] = 1  # of the distances' codes; there is one
    instructions, extra, count = _repeats(told)
    frequencies = np.zeros(19, np.int32)
    for i in range(count):
        frequencies[instructions[i]] += 1
    short = np.zeros(19, np.int32)
    _code_lengths(frequencies, _LENGTH_LIMIT, short)
    codes = _codes(short)
    shown = 4
    for i in range(4, 19):
        if short[_LENGTH_ORDER[i]]:
            shown = i + 1
    # 78 01: deflate with a window of 32 kB, fast. Then the last block (1), of dynamic codes (2).
    start = 0x0178 | 5 << 16 | (used - 257) << 19 | (shown - 4) << 29
    at, held, bits = _put(stream, 0, np.uint64(0), np.uint64(0), np.uint64(start), np.uint64(33))
    for i in range(shown):
        at, held, bits = _put(stream, at, held, bits, np.uint64(short[_LENGTH_ORDER[i]]), np.uint64(3))
    for i in range(count):
        instruction = instructions[i]
        size = np.uint64(short[instruction])
        more = np.uint64(0 if instruction < 16 else 2 if instruction == 16 else 3 if instruction == 17 else 7)
        at, held, bits = _put(stream, at, held, bits, codes[instruction] | (np.uint64(extra[i]) << size), size + more)
    return at, held, bits


@njit(cache=True, nogil=True)
def _repeats(lengths: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32], int]:
    """Code lengths as RFC 1951, 3.2.7, writes them: themselves, 16 (the one before, 3 to 6 times), 17 and 18 (zeros).

    Gives these instructions, the value of the extra bits of each, and how many there are.
    """
    instructions, extra = np.empty(len(lengths), np.int32), np.zeros(len(lengths), np.int32)
    count = 0
    i = 0
    while i < len(lengths):
        length = lengths[i]
        end = i + 1
        while end < len(lengths) and lengths[end] == length:
            end += 1
        left = end - i
        if length:  # once itself, so that there is one before
            instructions[count] = length
            count += 1
            left -= 1
        while left >= 3:
            if length:
                instruction, least, most = 16, 3, 6
            elif left <= 10:
                instruction, least, most = 17, 3, 10
            else:
                instruction, least, most = 18, 11, 138
            taken = min(left, most)
            instructions[count] = instruction
            extra[count] = taken - least
            count += 1
            left -= taken
        for _ in range(left):
            instructions[count] = length
            count += 1
        i = end
    return instructions, extra, count
