"""Comparisons that stop when they know: seed after seed, until every method is decided."""
