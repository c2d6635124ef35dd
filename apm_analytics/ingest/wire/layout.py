"""Where the scanner stores what it reads: one block of 64-bit words that holds every address.

In:  nothing.
Out: the offset, in bytes, of every word; which columns a lake table needs, and their item sizes.

The shared words come first, then a block for the heads of resources, scopes and metrics, then one
per lake table. Every block begins with the count and capacity of its frames; the columns of a frame
grow together. `state` allocates, the scanner fills, `assembly` reads.
"""

from typing import NamedTuple

from apm_analytics.ingest.decode.columns import PLACES, TARGET
from apm_analytics.lake.schema import PROMOTED, TEXT, column_name

WORD = 8

# --- shared: interned texts, limits, the record that did not fit ---
(
    SLOTS,  # address: hash table, upper half of the hash and code + 1 in each slot
    SLOT_MASK,
    ENDS,  # address: int32, where each text begins in the arena; the next one is its end
    TEXT_STAMPS,  # address: int32, of each text the last map in which it was the key of a text
    NUMBER_STAMPS,  # address: int32, of each text the last map in which it was the key of a number
    ARENA,  # address: all texts, one after another
    ITEM_STAMPS,  # address: int32, the same for keys in an event, exemplar or link
    TEXTS,  # the number of texts
    TEXTS_CAPACITY,
    ARENA_CAPACITY,
    MAP,  # number of the current record's maps
    ITEM_MAP,  # number of the current event's, exemplar's or link's map
    EARLIEST,  # ns: the limits of valid times
    LATEST,
    PLACE_COLUMN,  # address: uint8, the promoted column of each of the first texts
    PLACE_CURRENT,  # address: uint8, whether it is the column's current name
    SCRATCH,  # address: room to write a number as text
    GROUP,  # the current resource and scope
    LACKING,  # the block that has no room, and the size of the record
    LACKING_SIZE,
    KEY_MARKS,  # address: int32, the mark of each text as a key, see below
    ASKED,  # address: int32, the texts that became keys since `ASKED_COUNT` was set to 0
    ASKED_COUNT,
    UNSURE,  # whether a record came that a privacy rule may change, whatever its texts
    ENTERED,  # the number of texts in the hash table: those that may repeat
    NOVELTY,  # address: int32, how seldom the texts of each field repeat, see `texts`
    RECALLED,  # address: attributes that came before, see `recall`
) = range(0, 27 * WORD, WORD)
SHARED_BYTES = 27 * WORD
RECALLED_PLACES, RECALLED_PLACE_BYTES = 1024, 128  # the first a power of 2
# The entries of NOVELTY: one for each of the first attribute keys, by code, and one for bodies.
NOVELTY_KEYS = 4096
BODIES = NOVELTY_KEYS
# Marks of a key: unknown, waiting for an answer, without a privacy rule, with one.
KEY_NEW, KEY_ASKED, KEY_CLEAN, KEY_RULED = range(4)

# --- every block: count and capacity of each frame ---
RECORD, TEXT_PAIR, NUMBER_PAIR, ITEM, LINK, ITEM_PAIR, LIST_ONE, LIST_TWO = range(0, 128, 16)
FRAMES = (RECORD, TEXT_PAIR, NUMBER_PAIR, ITEM, LINK, ITEM_PAIR, LIST_ONE, LIST_TWO)
CAPACITY = WORD  # after the count
# The head block has frames of its own.
RANGE, HEAD_GROUP, METRIC = FRAMES[:3]

SPANS, POINTS, HISTOGRAMS, EXP_HISTOGRAMS, SUMMARIES, LOGS = TABLE_NAMES = (
    "spans",
    "metric_points",
    "histogram_points",
    "exp_histogram_points",
    "summary_points",
    "logs",
)
HEAD = "head"
_SIGNED = (SPANS, LOGS)
METRIC_TABLES = _METRICS = (POINTS, HISTOGRAMS, EXP_HISTOGRAMS, SUMMARIES)
_BUCKETS = (HISTOGRAMS, EXP_HISTOGRAMS)
_COUNTED = (*_BUCKETS, SUMMARIES)
_WITH_ITEMS = (SPANS, POINTS, *_BUCKETS)
_ALL = (*_SIGNED, *_METRICS)


class Column(NamedTuple):
    """One column of a frame: the offset of its address, its item size in bytes, its tables."""

    offset: int
    frame: int
    size: int
    tables: tuple[str, ...]


COLUMNS: list[Column] = []
_COLUMNS_START = 16 * len(FRAMES)


def _column(frame: int, size: int, tables: tuple[str, ...]) -> int:
    offset = _COLUMNS_START + WORD * len(COLUMNS)
    COLUMNS.append(Column(offset, frame, size, tables))
    return offset


# Heads: the parts of a resource or scope message that are not records, as address ranges.
RANGE_OWNER = _column(RANGE, 8, (HEAD,))  # group, or -1 - entry
RANGE_START = _column(RANGE, 8, (HEAD,))
RANGE_END = _column(RANGE, 8, (HEAD,))
GROUP_ENTRY = _column(HEAD_GROUP, 8, (HEAD,))
METRIC_NAME = _column(METRIC, 4, (HEAD,))
METRIC_UNIT = _column(METRIC, 4, (HEAD,))
METRIC_DESCRIPTION = _column(METRIC, 4, (HEAD,))
METRIC_KIND = _column(METRIC, 4, (HEAD,))
METRIC_TEMPORALITY = _column(METRIC, 4, (HEAD,))
METRIC_MONOTONIC = _column(METRIC, 4, (HEAD,))
METRIC_GROUP = _column(METRIC, 4, (HEAD,))

# Records. Texts are int32 codes, -1 for none.
TIME = _column(RECORD, 8, _ALL)
OTHER_TIME = _column(RECORD, 8, (LOGS, *_METRICS))  # observed or start; 0 for none
CONTEXT = _column(RECORD, 4, _ALL)
FLAGS = _column(RECORD, 4, _ALL)  # unsigned
DROPPED = _column(RECORD, 4, _SIGNED)  # unsigned
# Bits: which of the columns below hold a value.
PRESENT = _column(RECORD, 8, _ALL)
TEXT_END = _column(RECORD, 4, _ALL)
NUMBER_END = _column(RECORD, 4, _ALL)
ITEM_END = _column(RECORD, 4, _WITH_ITEMS)
TRACE_ID = _column(RECORD, 32, _SIGNED)
SPAN_ID = _column(RECORD, 16, _SIGNED)

DURATION = _column(RECORD, 8, (SPANS,))
PARENT_ID = _column(RECORD, 16, (SPANS,))
NAME = _column(RECORD, 4, (SPANS,))
KIND = _column(RECORD, 4, (SPANS,))
STATUS = _column(RECORD, 4, (SPANS,))
STATUS_MESSAGE = _column(RECORD, 4, (SPANS,))
TRACE_STATE = _column(RECORD, 4, (SPANS,))
DROPPED_EVENTS = _column(RECORD, 4, (SPANS,))
DROPPED_LINKS = _column(RECORD, 4, (SPANS,))
LINK_END = _column(RECORD, 4, (SPANS,))

SEVERITY = _column(RECORD, 4, (LOGS,))
SEVERITY_TEXT = _column(RECORD, 4, (LOGS,))
BODY = _column(RECORD, 4, (LOGS,))
EVENT_NAME = _column(RECORD, 4, (LOGS,))

METRIC_ROW = _column(RECORD, 4, _METRICS)
VALUE = _column(RECORD, 8, (POINTS,))  # double
VALUE_INT = _column(RECORD, 8, (POINTS,))
COUNT = _column(RECORD, 8, _COUNTED)
SUM = _column(RECORD, 8, _COUNTED)  # double
MIN = _column(RECORD, 8, _BUCKETS)  # double
MAX = _column(RECORD, 8, _BUCKETS)  # double
SCALE = _column(RECORD, 4, (EXP_HISTOGRAMS,))
ZERO_COUNT = _column(RECORD, 8, (EXP_HISTOGRAMS,))
ZERO_THRESHOLD = _column(RECORD, 8, (EXP_HISTOGRAMS,))  # double
POSITIVE_OFFSET = _column(RECORD, 4, (EXP_HISTOGRAMS,))
NEGATIVE_OFFSET = _column(RECORD, 4, (EXP_HISTOGRAMS,))
LIST_ONE_END = _column(RECORD, 4, _COUNTED)
LIST_TWO_END = _column(RECORD, 4, _COUNTED)

# Bits of PRESENT; a promoted integer has the bit of its promoted column, from FIRST_PROMOTED on.
HAS_PARENT, HAS_TRACE, HAS_SPAN, HAS_VALUE, HAS_INT, HAS_SUM, HAS_MIN, HAS_MAX = (
    1 << bit for bit in range(8)
)

# Attributes that have no column.
TEXT_KEY = _column(TEXT_PAIR, 4, _ALL)
TEXT_VALUE = _column(TEXT_PAIR, 4, _ALL)
NUMBER_KEY = _column(NUMBER_PAIR, 4, _ALL)
NUMBER_VALUE = _column(NUMBER_PAIR, 8, _ALL)  # double

# Events of a span, exemplars of a point.
ITEM_TIME = _column(ITEM, 8, _WITH_ITEMS)  # 0 for none
ITEM_NAME = _column(ITEM, 4, (SPANS,))
ITEM_DROPPED = _column(ITEM, 4, (SPANS,))
ITEM_VALUE = _column(ITEM, 8, (POINTS, *_BUCKETS))  # double
ITEM_TRACE = _column(ITEM, 32, (POINTS, *_BUCKETS))
ITEM_SPAN = _column(ITEM, 16, (POINTS, *_BUCKETS))
ITEM_PRESENT = _column(ITEM, 8, (POINTS, *_BUCKETS))
ITEM_PAIR_FROM = _column(ITEM, 4, _WITH_ITEMS)
ITEM_PAIR_END = _column(ITEM, 4, _WITH_ITEMS)

LINK_TRACE = _column(LINK, 32, (SPANS,))
LINK_SPAN = _column(LINK, 16, (SPANS,))
LINK_PRESENT = _column(LINK, 8, (SPANS,))
LINK_STATE = _column(LINK, 4, (SPANS,))
LINK_FLAGS = _column(LINK, 4, (SPANS,))
LINK_DROPPED = _column(LINK, 4, (SPANS,))
LINK_PAIR_FROM = _column(LINK, 4, (SPANS,))
LINK_PAIR_END = _column(LINK, 4, (SPANS,))

# Attributes of events, exemplars and links.
PAIR_KEY = _column(ITEM_PAIR, 4, _WITH_ITEMS)
PAIR_VALUE = _column(ITEM_PAIR, 4, _WITH_ITEMS)

# Bounds and counts; quantiles and values; positive and negative counts.
LIST_ONE_VALUE = _column(LIST_ONE, 8, _COUNTED)
LIST_TWO_VALUE = _column(LIST_TWO, 8, _COUNTED)

# Promoted attributes: address, number of filled rows, the name the last value came under.
PROMOTED_KEYS = tuple(PROMOTED)
PROMOTED_SIZES = tuple(4 if kind == TEXT else 8 for kind in PROMOTED.values())
FIRST_PROMOTED = _COLUMNS_START + WORD * len(COLUMNS)
PROMOTED_WORDS = 3 * WORD
FILLED, HOLDER = WORD, 2 * WORD
BLOCK_BYTES = FIRST_PROMOTED + PROMOTED_WORDS * len(PROMOTED)
FIRST_PROMOTED_BIT = 8

# The first texts of every batch, in this order: their code is the index of their column.
PLACE_NAMES = tuple(PLACES)
PLACE_COUNT = len(PLACE_NAMES)
TARGET_CODE = PLACE_NAMES.index(TARGET)
_COLUMN_NUMBERS = {column_name(key): number for number, key in enumerate(PROMOTED_KEYS)}
PLACE_COLUMNS = tuple(_COLUMN_NUMBERS[column] for column, _, _ in PLACES.values())
PLACE_CURRENTS = tuple(current for _, _, current in PLACES.values())
# Then the texts of other values.
TRUE_CODE, FALSE_CODE, NULL_CODE, EMPTY_CODE = range(PLACE_COUNT, PLACE_COUNT + 4)
FIRST_TEXTS = (*PLACE_NAMES, "true", "false", "null", "")


def column(offset: int) -> Column:
    """Return the column whose address is at an offset of a block."""
    return COLUMNS[(offset - _COLUMNS_START) // WORD]


def table_offset(number: int) -> int:
    """Return the offset of a block: 0 is the head, then one per table of `TABLE_NAMES`."""
    return SHARED_BYTES + BLOCK_BYTES * number


STATE_BYTES = table_offset(1 + len(TABLE_NAMES))
