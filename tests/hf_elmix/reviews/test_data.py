from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from hf_elmix.errors import UsageError
from hf_elmix.reviews.data import read_reviews
from hf_elmix.reviews.protocol import LABEL_COLUMN, TEXT_COLUMN
