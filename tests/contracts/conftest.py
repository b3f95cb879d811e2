"""The small pipeline, for the kinds of components that work on one."""

from __future__ import annotations

from tests.pipelines import digest as digest
from tests.pipelines import foundation as foundation
from tests.pipelines import glyph_sized as glyph_sized
from tests.pipelines import make_pipeline as make_pipeline
from tests.pipelines import pictures as pictures
from tests.pipelines import pipeline_folder as pipeline_folder
from tests.pipelines import random_adapter as random_adapter
from tests.pipelines import sentences as sentences
from tests.pipelines import settings as settings
from tests.pipelines import with_scheduler as with_scheduler
