"""Sections of the report that one part of a run has to itself."""
