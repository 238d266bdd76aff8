"""The sections of a report. Each is made by a function of the results, which returns None to leave it out."""

from __future__ import annotations

from hf_elmix.analysis.results import StudyResults
from hf_elmix.analysis.sections.base import Section
from hf_elmix.analysis.sections.calibration import calibration_section
from hf_elmix.analysis.sections.cohorts import cohort_section
from hf_elmix.analysis.sections.extra_metrics import extra_metrics_section
from hf_elmix.analysis.sections.runs import runs_section
from hf_elmix.analysis.sections.scores import scores_section
from hf_elmix.analysis.sections.sequential import sequential_section
from hf_elmix.analysis.sections.summary import summary_section
from hf_elmix.analysis.sections.training import training_section

__all__ = ["sections_of"]

SECTIONS = (
    sequential_section,
    summary_section,
    scores_section,
    extra_metrics_section,
    cohort_section,
    calibration_section,
    training_section,
    runs_section,
)


def sections_of(results: StudyResults) -> list[Section]:
    """Make the sections of a report in the order of the page, from the verdict to the list of runs."""
    return [section for make in SECTIONS if (section := make(results))]
