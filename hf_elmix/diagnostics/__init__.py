"""Instruments that show what training does: gradients, cohorts, escaping efficiency, calibration."""
