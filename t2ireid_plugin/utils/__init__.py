"""Helpers that know nothing of person re-identification: processes, files, signals, fonts, progress."""
