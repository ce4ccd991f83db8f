"""Data: from what a person types to four parts of uint8 images `(N, C, H, W)`, with every conversion on record.

    load_data("mnist:threshold") → Data(.space, .train, .valid, .calib, .test, .heading, .fingerprint)
    load_images("scans/")        → what there is to score, in order

Read in this order: `sources` (the grammar and the named sets), `files` and `arrays` (readers), `text`, `shapes`, `points`, `decode` (one image file),
`transforms`, `split`, `pixels` (memory or disk), `part` (`Split`), `unread`, `convert`, `load` (puts them together), `summary`.
"""

from pofx.data.load import Data, load_data, load_images, open_images, order
from pofx.data.part import Split
from pofx.data.sources import SETS, Spec, parse
from pofx.data.summary import DataSummary, contact_sheet, describe
from pofx.data.unread import Unread

SET_NAMES = tuple(SETS)

__all__ = [
    "Data",
    "DataSummary",
    "SET_NAMES",
    "Spec",
    "Split",
    "Unread",
    "contact_sheet",
    "describe",
    "load_data",
    "load_images",
    "open_images",
    "order",
    "parse",
]
